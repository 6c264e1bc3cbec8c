"""A second GPU machine, added as docs/howto/gpu-machine.md says: its own blocks, run on two boxes.

    python benchmarks/second_box.py               two homes of this machine
    sudo python benchmarks/second_box.py          as root: two network namespaces with a wire between them
    … --s3                                        files in an S3 store (moto's server) instead of a shared folder
    … --homes                                     two homes, also as root
    … --write                                     keeps what was printed in benchmarks/results/second_box.txt, the last
                                                  two forms after what is there

The first box has a PostgreSQL and a Valkey, both with passwords and both reachable over the wire alone; it runs the
control and prep workers and beat, and no GPU worker. The second, under a host name of its own where root may give one,
runs ``celora node`` with nothing but the page's variables. Only addresses, passwords and the base differ from the page:
the base is a tiny one, so what it learns says nothing.
"""

import argparse
import contextlib
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import redis

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docs"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import pages
from chaos.servers import Postgres, free_port
from tasks.conftest import make_base

from celora.workers.node.broker_server import find_server

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "howto" / "gpu-machine.md"
RESULT = ROOT / "benchmarks" / "results" / "second_box.txt"
FIRST, SECOND = "10.213.77.1", "10.213.77.2"
LIMIT_S = 300
NAMED = ["unshare", "--uts", "sh", "-c", 'hostname second; exec "$@"', "sh"]
"""Before a command, as root: it sees another host name."""


class Box:
    """A machine: a home, a folder to work in, and how a command is run there.

    Args:
        folder: Of this box.
        enter: Words before each command; those of its network namespace, or none.
    """

    def __init__(self, folder: Path, enter: list[str]) -> None:
        self.folder, self.enter = folder, enter
        folder.mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELORA_", "AWS_"))}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**kept, "PATH": programs, "CELORA_HOME": str(folder / "home"), "CUDA_VISIBLE_DEVICES": ""}
        self.environment |= {"OMP_NUM_THREADS": "1", "CELORA_TRAINER_THREADS": "1"}

    def run(self, block: pages.Block) -> str:
        """Run a block to its end; what it printed."""
        done = subprocess.run(
            [*self.enter, *block.command], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"$ {block.text}\n{done.stdout}\n{done.stderr}\nended with {done.returncode}")
        return done.stdout

    @contextlib.contextmanager
    def running(self, block: pages.Block, log: str) -> Generator[Path]:
        """Keep a block running, as in a terminal of its own; interrupted at the end."""
        path = self.folder / log
        with path.open("wb") as out:
            process = subprocess.Popen(
                [*self.enter, *block.command], cwd=self.folder, env=self.environment, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
            try:
                yield path
            finally:
                _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C to all of a terminal, and what does not leave is killed."""
    for number, patience_s in ((signal.SIGTERM, 40), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def two_namespaces(arguments: list[str]) -> int:
    """Run this program again with the first box's network, and a wire from it to the second's."""
    first, second = (f"celora-{side}-{os.getpid()}" for side in "ab")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)  # noqa: S607  (iproute2's)

    try:
        for name in (first, second):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", first, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", second)
        for name, address in ((first, FIRST), (second, SECOND)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        again = ["ip", "netns", "exec", first, sys.executable, __file__, *arguments, "--second", second]
        return subprocess.run(again, check=False).returncode
    finally:
        for name in (first, second):
            subprocess.run(["ip", "netns", "del", name], check=False)  # noqa: S607  (iproute2's)


@contextlib.contextmanager
def services(folder: Path, address: str, *, s3: bool) -> Generator[dict[str, str]]:
    """PostgreSQL, Valkey and perhaps an S3 store on the wire; what stands for them in place of the page's words."""
    passwords = {"DATABASE_PASSWORD": secrets.token_hex(8), "BROKER_PASSWORD": secrets.token_hex(8)}
    ports = {number: free_port() for number in (5432, 6379, 9000)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(postgres(folder / "pg", address, ports[5432], passwords["DATABASE_PASSWORD"]))
        stack.enter_context(valkey(folder / "valkey", address, ports[6379], passwords["BROKER_PASSWORD"]))
        if s3:
            stack.enter_context(store(folder / "s3.log", address, ports[9000]))
        yield passwords | {f"services.example:{number}": f"{address}:{port}" for number, port in ports.items()}


@contextlib.contextmanager
def postgres(folder: Path, address: str, port: int, password: str) -> Generator[None]:
    """A PostgreSQL whose database ``celora`` nobody enters over the wire without the password."""
    with Postgres(folder, port=port, options={"listen_addresses": address}) as server:
        entrance = "local all all trust\nhost all all 0.0.0.0/0 scram-sha-256\n"
        (server.data / "pg_hba.conf").write_text(entrance, encoding="utf-8")
        server.administer(f"ALTER USER celora PASSWORD '{password}'")
        server.administer("SELECT pg_reload_conf()")
        server.create("celora")
        for wrong in ("", "wrong"):
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(f"postgresql://celora:{wrong}@{address}:{port}/celora", connect_timeout=5).close()
                raise SystemExit("PostgreSQL let somebody in without the password")
        yield


@contextlib.contextmanager
def valkey(folder: Path, address: str, port: int, password: str) -> Generator[None]:
    """A Valkey as an operator would have one."""
    folder.mkdir()
    settings = f"bind {address}\nport {port}\nrequirepass {password}\ndir {folder}\nmaxmemory-policy noeviction\n"
    (folder / "valkey.conf").write_text(settings, encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([find_server(), folder / "valkey.conf"], stdout=log, stderr=log)
    try:
        with redis.Redis(address, port, password=password) as client:
            until(lambda: ready(client), "Valkey")
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def ready(client: redis.Redis) -> bool:
    """Whether a server answers."""
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@contextlib.contextmanager
def store(log: Path, address: str, port: int) -> Generator[None]:
    """An S3 with an empty bucket ``celora``."""
    with log.open("wb") as out:
        command = [sys.executable, "-m", "moto.server", "-H", address, "-p", str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        until(lambda: b"Running on" in log.read_bytes(), "moto's server")
        import boto3  # noqa: PLC0415  (a second that the other form need not wait)

        keys = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://{address}:{port}", **keys).create_bucket(Bucket="celora")
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def until(reached: Callable[[], bool], what: str, limit_s: float = 60) -> None:
    """Wait for a condition; a program that waits in vain ends here."""
    deadline = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not get ready")
        time.sleep(0.1)


def page(told: dict[str, str], shared: Path, base: Path, *, s3: bool) -> dict[str, pages.Block]:
    """The page's blocks by the comment in their first line, with our names in place of its."""
    text = PAGE.read_text(encoding="utf-8")
    if s3:
        (lines,) = re.findall(r"^```sh\n# S3\n(.*?)\n```", text, flags=re.MULTILINE | re.DOTALL)
        text = text.replace("export CELORA_ARTIFACT_ROOT=file:///mnt/celora", lines)
    told |= {"/mnt/celora": str(shared), "smollm2-135m-instruct": str(base)}
    for words, ours in told.items():
        text = text.replace(words, ours)
    return {block.name: block for block in pages.blocks(text)}


def follow(first: Box, second: Box, blocks: dict[str, pages.Block]) -> list[str]:
    """The page from top to bottom; a line or more for each step."""
    for box in (first, second):
        box.run(blocks["both machines"])
        shutil.copy(ROOT / "cli" / "demo_data" / "train.jsonl", box.folder)
    said = [f"first$ celora migrate\n{first.run(blocks['tables'])}"]
    with first.running(blocks["services"], "services.log"), second.running(blocks["GPU machine"], "node.log") as log:
        until(lambda: b"ready" in log.read_bytes(), "the second box")
        said.append(f"second$ celora node\n{log.read_text(encoding='utf-8')}")
        began = time.monotonic()
        said.append(f"second$ {blocks['job'].text}\n{second.run(blocks['job'])}")
        said.append(f"from submit to the pulled adapter: {time.monotonic() - began:.0f} s")
    ran = first.run(pages.Block("sh", ". ./celora.env; celora status second-box --json"))
    stages = first.run(pages.Block("sh", ". ./celora.env; celora logs second-box --events"))
    if '"status": "completed"' not in ran or not (second.folder / "my-adapter" / "adapter_model.safetensors").is_file():
        raise SystemExit(f"the job did not end well:\n{ran}")
    return [*said, f"first$ celora logs second-box --events\n{stages}"]


def main() -> None:
    """Set up both boxes, follow the page, say what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s3", action="store_true", help="an S3 store instead of a shared folder")
    parser.add_argument("--write", action="store_true", help="keep what was printed below benchmarks/results")
    parser.add_argument("--homes", action="store_true", help="two homes, also where namespaces could be made")
    parser.add_argument("--second", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if os.geteuid() == 0 and shutil.which("ip") and not (given.homes or given.second):
        raise SystemExit(two_namespaces(sys.argv[1:]))
    address = FIRST if given.second else "127.0.0.1"
    where = "two network namespaces and a wire" if given.second else "two homes of one machine"
    files = "S3 (moto's server)" if given.s3 else "a shared folder"
    with tempfile.TemporaryDirectory(prefix="celora-boxes-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as somebody else
        first = Box(folder / "first", [])
        enter = ["ip", "netns", "exec", given.second] if given.second else []
        second = Box(folder / "second", [*enter, *NAMED] if os.geteuid() == 0 else enter)
        base = make_base(folder / "base")
        with services(folder, address, s3=given.s3) as told:
            blocks = page(dict(told), folder / "shared", base, s3=given.s3)
            said = "\n".join(follow(first, second, blocks))
        for words, shown in (
            (name, "…"),
            (f"@{platform.node()}", "@first"),
            *((value, words) for words, value in told.items()),
        ):
            said = said.replace(words, shown)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[2]:.1f}"
    text = f"== {where}, files in {files}; {machine}\n\n{said}"
    print(text)
    if given.write:
        kept = RESULT.read_text(encoding="utf-8") if RESULT.exists() and (given.s3 or given.homes) else ""
        RESULT.write_text(f"{kept}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
