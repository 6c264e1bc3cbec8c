"""The services of deploy/compose.yaml started by hand on one machine, watched through two jobs, and photographed.

PostgreSQL (from a wheel) and Valkey with passwords; migration, control, prep, CPU worker, beat, Flower and exporter
with the commands and the environment that stand in compose.yaml, only their folders, addresses and ports replaced;
Prometheus with deploy/monitoring's own configuration and rules. One job is trained from start to end, a second is
ended by Flower's own button in a headless Chromium, and what Prometheus then says is compared with the record.
Grafana is in no Debian package and is left out; its dashboard's queries are tested (tests/deploy/test_monitoring.py).

Needs Chromium and Prometheus (Debian: `apt-get install chromium prometheus`).

`python benchmarks/watch.py` prints one JSON object and writes it to benchmarks/results/watch.json; with `--images
docs/images` it makes the pictures anew. The exit code is 1 where a figure is not the record's.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

DEPLOY, RESULTS = ROOT / "deploy", ROOT / "benchmarks" / "results" / "watch.json"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SETTLED_S = 25
"""What has grown is counted some 15 s late by the exporter; then comes a scrape."""

QUICK = {
    "CELORA_TICK_S": "2",
    "CELORA_HEARTBEAT_S": "5",
    "CELORA_TRAINER_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
QUERIES = {
    "targets that can be scraped": "sum by (job) (up)",
    "jobs that are over": "sum by (status) (celora_jobs_ended_total)",
    "most jobs running at once, by queue": 'max by (queue) (max_over_time(celora_jobs{status="running"}[1h]))',
    "stages that ended, by how": "celora_stage_seconds_count",
    "seconds that they took": "celora_stage_seconds_sum",
    "highest speed seen, tokens a second": "max by (tenant) (max_over_time(celora_tokens_per_second[1h]))",
    "seconds on the device, by tenant": "sum by (tenant) (celora_gpu_seconds_total)",
    "US dollars, by tenant": "sum by (tenant) (celora_cost_dollars_total)",
    "workers": "sum by (kind) (celora_workers)",
    "record and broker can be reached": "min(celora_record_up) * min(celora_broker_up)",
    "slowest scrape, seconds": "max(max_over_time(celora_scrape_seconds[1h]))",
    "tasks that Flower saw end": 'sum by (type) (flower_events_total{type=~"task-(succeeded|revoked|failed)"})',
    "alerts": "count by (alertname, alertstate) (ALERTS)",
}


class Machine:
    """Where everything of this run lies, and what compose.yaml calls it.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
        self.ports = {name: free_port() for name in ("5555", "9808", "9090", "5432", "6379")}
        self.password = {name: secrets.token_hex(16) for name in ("postgres", "broker", "worker", "flower")}
        for name in ("secrets", "artifacts", "data", "homes", "cache", "logs", "prometheus"):
            (folder / name).mkdir()
        self._keep("broker_password", self.password["broker"])
        self._keep("flower_auth", f"celora:{self.password['flower']}")
        address = f"127.0.0.1:{self.ports['5432']}"
        self._keep("celora_database_url", f"postgresql://celora:{self.password['postgres']}@{address}/celora")
        broker = f"127.0.0.1:{self.ports['6379']}/0"
        self._keep("celora_broker_url", f"redis://:{self.password['broker']}@{broker}")
        self._keep("celora_worker_broker_url", f"redis://celora-worker:{self.password['worker']}@{broker}")
        users = (DEPLOY / "compose" / "broker_users.template").read_text(encoding="utf-8")
        for role, name in (("APPLICATION", "broker"), ("WORKER", "worker")):
            users = users.replace(f"{role}_PASSWORD", self.password[name])
        self._keep("broker_users", users)

    def _keep(self, name: str, value: str) -> None:
        (self.folder / "secrets" / name).write_text(value, encoding="utf-8")

    def here(self, text: str) -> str:
        """A word of compose.yaml, with this run's places in it."""
        for there, place in {
            "/run/secrets": f"{self.folder}/secrets",
            "/artifacts": f"{self.folder}/artifacts",
            '"/data"': f'"{self.folder}/data"',
            "dir /data": f"dir {self.folder}/homes/broker",
            "/tmp/beat-schedule": f"{self.folder}/homes/beat/schedule",  # noqa: S108  (compose's own, to be replaced)
            "/opt/celora/flowerconfig.py": str(ROOT / "flower" / "flowerconfig.py"),
            "0.0.0.0": "127.0.0.1",  # noqa: S104  (the same)
            "5555": str(self.ports["5555"]),
            "9808": str(self.ports["9808"]),
            "$$": "$",
        }.items():
            text = text.replace(there, place)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """Of a service: compose's, a home of its own with the shared cache in it, and short times."""
        home = self.folder / "homes" / service
        home.mkdir(exist_ok=True)
        if not (home / "cache").exists():
            (home / "cache").symlink_to(self.folder / "cache")
        given = {name: self.here(str(value)) for name, value in self.compose["x-celora"]["environment"].items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "CELORA_HOME": str(home), **given, **QUICK}

    def command(self, service: str) -> list[str]:
        """Of a service."""
        return [self.here(str(word)) for word in self.compose["services"][service]["command"]]

    def celora(self, *words: str) -> str:
        """Run a command on this installation; what it printed."""
        done = subprocess.run(
            [Path(sys.executable).parent / "celora", *words],
            env=self.environment("control"),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"celora {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def job(self, job_id: str) -> dict[str, Any]:
        """What the record says of a job."""
        return json.loads(self.celora("status", job_id, "--json"))


def main() -> None:
    """Run it, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", default="", help="base model; a random one of 0.2 M parameters unless given")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--images", type=Path, help="folder for the pictures; none are kept unless given")
    options = parser.parse_args()
    needed = {"chromium": CHROMIUM, "prometheus": shutil.which("prometheus")}
    missing = [name for name, found in needed.items() if not found]
    if missing:
        print(f"not run: this machine has no {' and no '.join(missing)} (Debian: apt-get install {' '.join(missing)})")
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="celora-watch-") as folder, ExitStack() as running:
        Path(folder).chmod(0o755)
        machine = Machine(Path(folder))
        start_everything(machine, running)
        found = watch(machine, options.base or random_base(machine), options.steps, options.images)
    words = [f"--base {options.base}" if options.base else "", f"--steps {options.steps}"]
    found |= {
        "seconds": round(time.monotonic() - began, 1),
        "command": " ".join(["benchmarks/watch.py", *filter(None, words)]),
    }
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if found["passed"] else 1)


def start_everything(machine: Machine, running: ExitStack) -> None:
    """Servers, migration, services, Prometheus, in compose's order."""
    from chaos.servers import Postgres  # noqa: PLC0415  (by the path above)

    postgres = running.enter_context(Postgres(machine.folder / "postgres", port=int(machine.ports["5432"])))
    postgres.create("celora")
    postgres.administer(f"ALTER USER celora PASSWORD '{machine.password['postgres']}'")
    (postgres.data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    postgres.administer("SELECT pg_reload_conf()")

    (machine.folder / "homes" / "broker").mkdir()
    running.enter_context(process(machine, "broker", broker_command(machine)))
    wait(lambda: broker_answers(machine), "the broker", 20)
    subprocess.run(machine.command("migrate"), env=machine.environment("migrate"), check=True)
    for name in ("control", "prep", "cpu", "beat", "flower", "metrics"):
        running.enter_context(process(machine, name, machine.command(name)))
    running.enter_context(process(machine, "prometheus", prometheus_command(machine)))
    wait(lambda: len(json.loads(machine.celora("workers", "--json"))) == 3, "the workers", 90)  # noqa: PLR2004
    wait(lambda: set(scraped(machine).values()) == {1.0} and len(scraped(machine)) == 2, "the scrapes", 60)  # noqa: PLR2004


def broker_command(machine: Machine) -> list[str]:
    """Compose's, with the server of the wheel and the port of this run."""
    from celora.workers.node.broker_server import find_server  # noqa: PLC0415  (reads CELORA_HOME at import)

    line = machine.command("broker")[2]
    port = machine.ports["6379"]
    return ["sh", "-c", line.replace("valkey-server -", f"exec {find_server()} - --port {port} --bind 127.0.0.1")]


def broker_answers(machine: Machine) -> bool:
    """Whether it does, with its password."""
    import redis  # noqa: PLC0415  (needed here alone)

    client = redis.Redis(port=int(machine.ports["6379"]), password=machine.password["broker"])
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def prometheus_command(machine: Machine) -> list[str]:
    """Prometheus with our configuration; only names, ports and the interval are this run's."""
    text = (DEPLOY / "monitoring" / "prometheus.yml").read_text(encoding="utf-8")
    for there, here in (
        ("metrics:9808", f"127.0.0.1:{machine.ports['9808']}"),
        ("flower:5555", f"127.0.0.1:{machine.ports['5555']}"),
        ("scrape_interval: 30s", "scrape_interval: 2s"),
        ("scrape_timeout: 15s", "scrape_timeout: 2s"),
        ("evaluation_interval: 30s", "evaluation_interval: 5s"),
    ):
        if there not in text:
            raise SystemExit(f"deploy/monitoring/prometheus.yml has no {there!r} any more")
        text = text.replace(there, here)
    shutil.copy(DEPLOY / "monitoring" / "alerts.yml", machine.folder / "alerts.yml")
    (machine.folder / "prometheus.yml").write_text(text, encoding="utf-8")
    return [
        "prometheus",
        f"--config.file={machine.folder}/prometheus.yml",
        f"--storage.tsdb.path={machine.folder}/prometheus",
        f"--web.listen-address=127.0.0.1:{machine.ports['9090']}",
    ]


def watch(machine: Machine, base: str, steps: int, images: Path | None) -> dict[str, Any]:
    """One job to its end, one revoked in Flower; then what Prometheus says beside what the record says."""
    shutil.copy(ROOT / "cli" / "demo_data" / "train.jsonl", machine.folder / "data" / "train.jsonl")
    with browser(machine, images) as look:
        first = submit(machine, base, steps, "acme", "support-bot")
        wait(lambda: machine.job(first)["step"] >= min(steps // 3, 60), "the first steps", 600)
        look.flower("/tasks", "flower-tasks")
        look.flower(f"/task/{first}", "flower-job")
        wait(lambda: machine.job(first)["status"] in ("completed", "failed"), "the first job's end", 3600)
        second = submit(machine, base, 100_000, "zoo", "tickets")
        wait(lambda: machine.job(second)["step"] > 0, "the second job's first step", 600)
        took_s = look.terminate(second, lambda: machine.job(second)["status"] == "cancelled")
        time.sleep(SETTLED_S)
        look.flower("/tasks", "flower-tasks-after")
        look.flower("/", "flower-workers")
        look.prometheus()
    jobs = {job_id: machine.job(job_id) for job_id in (first, second)}
    said = {what: query(machine, expression) for what, expression in QUERIES.items()}
    about = {"cancelled_after_s": took_s, "cores": os.cpu_count()}
    return {**compared(jobs, said), **about, "prometheus": said}


def submit(machine: Machine, base: str, steps: int, tenant: str, suffix: str) -> str:
    """Submit a job by the command line; its id."""
    words = {
        "base-model": base, "dataset": machine.folder / "data" / "train.jsonl", "tenant": tenant, "suffix": suffix,
        "max-steps": steps, "eval-fraction": 0.1, "eval-max-rows": 8, "eval-max-new-tokens": 8, "rank": 4,
        "micro-batch": 2, "effective-batch": 2, "max-length": 256,
    }  # fmt: skip
    told = machine.celora("submit", *(part for name, value in words.items() for part in (f"--{name}", str(value))))
    return told.split()[0]


def compared(jobs: dict[str, dict[str, Any]], said: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The record's figures, and which of Prometheus' are not the same."""
    statuses = [job["status"] for job in jobs.values()]
    stages: dict[str, float] = {}
    for job in jobs.values():
        for stage, seconds in job["stage_seconds"].items():
            stages[stage] = round(stages.get(stage, 0.0) + seconds, 3)
    record = {
        "jobs that are over": {status: float(statuses.count(status)) for status in set(statuses)},
        "seconds that they took": stages,
        "seconds on the device, by tenant": {job["tenant"]: job["gpu_seconds"] for job in jobs.values()},
    }
    wrong: list[str] = []
    for what, expected in record.items():
        told: dict[str, float] = {}
        for sample in said[what]:
            labels = sample["labels"]
            key = str(next(labels[name] for name in ("status", "stage", "tenant") if name in labels))
            told[key] = told.get(key, 0.0) + sample["value"]
        if set(told) != set(expected) or any(abs(told[key] - value) > 0.01 for key, value in expected.items()):  # noqa: PLR2004
            wrong.append(f"{what}: the record says {expected}, Prometheus {told}")
    if statuses != ["completed", "cancelled"]:
        wrong.append(f"the jobs ended as {statuses}")
    return {"passed": not wrong, "wrong": wrong, "record": record}


def query(machine: Machine, expression: str) -> list[dict[str, Any]]:
    """An instant query of Prometheus."""
    url = f"http://127.0.0.1:{machine.ports['9090']}/api/v1/query"
    answer = httpx.get(url, params={"query": expression}).raise_for_status().json()
    return [
        {
            "labels": {name: value for name, value in sample["metric"].items() if name not in ("__name__", "instance")},
            "value": round(float(sample["value"][1]), 3),
        }
        for sample in answer["data"]["result"]
    ]


def scraped(machine: Machine) -> dict[str, float]:
    """Whether each target can be scraped."""
    try:
        return {sample["labels"]["job"]: sample["value"] for sample in query(machine, "up")}
    except httpx.HTTPError:
        return {}


class Look:
    """A headless Chromium before Flower and Prometheus."""

    def __init__(self, machine: Machine, context: Any, images: Path | None) -> None:
        self._machine, self._images = machine, images
        self._page: Any = context.new_page()

    def flower(self, path: str, name: str) -> None:
        """Open a page of Flower and take its picture."""
        self._page.goto(f"http://127.0.0.1:{self._machine.ports['5555']}{path}")
        self._page.wait_for_timeout(2500)
        self._picture(name)

    def terminate(self, job_id: str, ended: Callable[[], bool]) -> float:
        """Press the button of a job's page; seconds until the record says that it ended."""
        self._page.goto(f"http://127.0.0.1:{self._machine.ports['5555']}/task/{job_id}")
        self._page.click("#task-terminate")
        began = time.monotonic()
        self._page.get_by_text(f"Revoked '{job_id}'").wait_for()
        self._page.wait_for_timeout(700)  # it fades in
        self._picture("flower-terminate")
        wait(ended, "the cancelled job", 120)
        return round(time.monotonic() - began, 1)

    def prometheus(self) -> None:
        """Our figures as Prometheus draws them, and its alerts."""
        self._page.set_viewport_size({"width": 1280, "height": 880})
        for expression, name in (
            ("sum by (queue, status) (celora_jobs)", "prometheus-jobs"),
            ("sum by (tenant) (celora_tokens_per_second)", "prometheus-speed"),
        ):
            drawn = f"g0.expr={quote(expression)}&g0.tab=0&g0.range_input=5m"
            self._page.goto(f"http://127.0.0.1:{self._machine.ports['9090']}/graph?{drawn}")
            self._page.wait_for_timeout(3000)
            self._picture(name)
        self._page.get_by_role("link", name="Alerts").click()
        self._page.wait_for_timeout(2000)
        self._picture("prometheus-alerts")

    def _picture(self, name: str) -> None:
        if self._images is not None:
            self._images.mkdir(parents=True, exist_ok=True)
            self._page.screenshot(path=str(self._images / f"{name}.png"))


@contextmanager
def browser(machine: Machine, images: Path | None) -> Generator[Look]:
    """A Chromium, logged in to Flower."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  (a tool of development)

    login = {"username": "celora", "password": machine.password["flower"]}
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield Look(machine, found.new_context(http_credentials=login, viewport={"width": 1280, "height": 720}), images)
        found.close()


def random_base(machine: Machine) -> str:
    """A random model of 0.2 M parameters: what is watched is not its training."""
    from schedules import make_base  # noqa: PLC0415  (by the path above)

    return str(make_base(machine.folder / "data" / "base"))


@contextmanager
def process(machine: Machine, name: str, command: list[str]) -> Generator[None]:
    """A service, until the end of the run; asked to leave first."""
    with (machine.folder / "logs" / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(
            command, env=machine.environment(name), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True, cwd=machine.folder / "homes" / name,
        )  # fmt: skip
    try:
        yield
    except BaseException:
        print(f"--- {name}\n{(machine.folder / 'logs' / f'{name}.log').read_text(errors='replace')[-1500:]}")
        raise
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def wait(reached: Callable[[], bool], what: str, limit_s: float) -> None:
    """Until it is so; an error after the limit."""
    deadline = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {limit_s:.0f} s")
        time.sleep(0.5)


def free_port() -> str:
    """A port of the loopback that is free now."""
    import socket  # noqa: PLC0415  (needed here alone)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


if __name__ == "__main__":
    main()
