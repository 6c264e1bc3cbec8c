"""A whole installation with short times, a tiny base and rows for it, and an app that knows nothing of celora."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from celery import Celery
from waiting import HANG_S, until

from celora.models.scope.scope import Scope

FAST = {
    "CELORA_LEASE_S": "6",
    "CELORA_HEARTBEAT_S": "1",
    "CELORA_REAPER_S": "1",
    "CELORA_TICK_S": "1",
    "CELORA_CLAIM_S": "15",
    "CELORA_GRACE_S": "20",
    "CELORA_VISIBILITY_TIMEOUT_S": "5",
    "CELORA_TRAINER_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def make_base(folder):
    """A random Llama of 0.2 M parameters with a tokenizer and a chat template, NF4-able."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers.decoders import ByteLevel

    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the colour of item number is red blue green"], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    wrapped.chat_template = (
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant:{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=3,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    colours = ["red", "blue", "green", "grey"]
    with path.open("w") as file:
        for number in range(48):
            file.write(
                json.dumps(
                    {"instruction": f"colour of item {number}", "output": f"item {number} is {colours[number % 4]}"}
                )
                + "\n"
            )
    return path


@pytest.fixture(scope="session")
def spec(base, rows):
    return {
        "base_model": str(base),
        "dataset": str(rows),
        "eval_fraction": 0.2,
        "max_steps": 4,
        "micro_batch": 2,
        "effective_batch": 4,
        "rank": 4,
        "eval_max_new_tokens": 8,
        "seed": 1,
    }


class Running:
    """A running installation, seen from a test."""

    def __init__(self, installation):
        self.installation = installation
        self.settings = installation.settings
        self.foreign = Celery("elsewhere", broker=self.settings.broker_url, backend=self.settings.broker_url)
        self.foreign.conf.update(task_default_queue="elsewhere", result_extended=True)

    def send(self, spec, **options):
        return self.foreign.send_task("celora.finetune", kwargs=spec, queue="celora", **options)

    def job(self, job_id):
        from celora.models import queries
        from celora.models.database import Database

        database = Database(self.settings.database)
        try:
            with database.session(Scope.everything) as session:
                return queries.job_detail(session, job_id).plain()
        finally:
            database.dispose()

    def events(self, job_id):
        from celora.models import queries
        from celora.models.database import Database

        database = Database(self.settings.database)
        try:
            with database.session(Scope.everything) as session:
                return [dict(event) for event in queries.events(session, job_id)]
        finally:
            database.dispose()

    def run(self, program, *arguments):
        """What another program of the virtual environment, in this installation's home, prints."""
        environment = {**os.environ, "CELORA_HOME": str(self.settings.home)}
        command = [str(Path(sys.executable).parent / program), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self):
        return processes_of(self.settings.home)

    def wait(self, job_id, reached, timeout_s=HANG_S):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                job = self.job(job_id)
            except Exception as error:
                if type(error).__name__ != "NotFoundError":
                    raise
                job = None
            if job is not None and reached(job):
                return job
            time.sleep(0.1)
        raise AssertionError(f"job {job_id} did not get there: {job}\n{self.logs()}")

    def until(self, condition):
        until(condition, self.logs, poll_s=0.1)

    def logs(self):
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.settings.logs.glob("*.log"))
        )

    def service(self, name):
        return next(service for service in self.installation.node.services.all if service.name == name)


def start(home, extra=None, *, flower=False, api=False, spare=True):
    """An installation below ``home``; give it to ``stop`` in the end."""
    from celora.settings.settings import get_settings
    from celora.workers.node.installation import Installation

    patch = pytest.MonkeyPatch()
    for name, value in {**FAST, "CELORA_HOME": str(home), **(extra or {})}.items():
        patch.setenv(name, value)
    get_settings.cache_clear()
    installation = Installation(flower=flower, api=api)
    installation.__enter__()
    if spare:
        installation.node._worker("cpu-1", ["--gpu", "1"])
    return installation, patch


def stop(installation, patch):
    from celora.settings.settings import get_settings

    refusals = refused_commands(installation._broker)
    try:
        installation.__exit__(None, None, None)
    finally:
        patch.undo()
        os.umask(0o022)  # an installation closes its files for all of its process
        get_settings.cache_clear()
        leftovers = processes_of(installation.settings.home)
        assert not leftovers, leftovers
    assert not refusals, refusals


def refused_commands(broker):
    """Take the list of commands that the broker refused to its users: nobody asks for more than its role permits."""
    if broker is None or not broker.alive():
        return []
    with redis.Redis.from_url(broker.operator_url, decode_responses=True) as client:
        refused = [(entry["username"], entry["context"], entry["object"]) for entry in client.acl_log()]
        client.acl_log_reset()
        return refused


def parent_command(process):
    parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
    return (process.parent / parent / "cmdline").read_bytes()


def processes_of(home):
    """Every process that carries this home in its environment, ourselves aside; a fork server is named as such.

    Its trainers have its command line, since they are forks of it.
    """
    found = []
    wanted = f"CELORA_HOME={home}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if wanted in (process / "environ").read_bytes().split(b"\0"):
                    command = (process / "cmdline").read_bytes()
                    server = b"--fork-server" in command and b"--fork-server" not in parent_command(process)
                    found.append((int(process.name), b"fork server" if server else command))
            except OSError:
                continue
    return found


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    installation, patch = start(tmp_path_factory.mktemp("home"))
    yield Running(installation)
    stop(installation, patch)


@pytest.fixture(scope="module")
def running_with_flower(tmp_path_factory):
    installation, patch = start(tmp_path_factory.mktemp("home"), flower=True)
    yield Running(installation)
    stop(installation, patch)


@pytest.fixture
def started(tmp_path):
    """Starts an installation with settings of the test's own; stopped at its end."""
    installations = []

    def begin(settings):
        installations.append(start(tmp_path / "home", settings))
        return Running(installations[-1][0])

    yield begin
    for installation, patch in installations:
        stop(installation, patch)


@pytest.fixture
def foreign_worker(tmp_path, running):
    """A worker of another app on the same Redis; its tasks append a line for each run to a file."""
    from celora.workers.node.processes import Service, Services

    written = tmp_path / "ran.txt"
    written.touch()
    (tmp_path / "elsewhere.py").write_text(FOREIGN_APP)
    services = Services(tmp_path)
    services.start(
        Service(
            name="elsewhere",
            command=[sys.executable, "-m", "celery", "-A", "elsewhere", "worker", "-Q", "elsewhere,celery", "-c", "2",
                     "-n", f"elsewhere-{tmp_path.name}@%h", "--without-gossip", "--without-mingle", "-l", "INFO"],
            environment={**os.environ, "BROKER": running.settings.broker_url, "WRITTEN": str(written)},
            log=tmp_path / "elsewhere.log",
        )
    )  # fmt: skip
    yield written
    services.stop(10)


@pytest.fixture
def foreign_app():
    return FOREIGN_APP


@pytest.fixture(scope="session")
def old_celery():
    """A folder with an old Celery and what it needs, kept beside the virtual environment."""

    def install(version):
        folder = Path(sys.prefix) / "foreign" / f"celery-{version}"
        if not (folder / "celery").is_dir():
            staged = folder.with_name(f"{folder.name}-{os.getpid()}")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(staged)]
            of_its_time = ["kombu==5.3.7", "redis==5.0.8", "billiard==4.2.1"]
            subprocess.run([*pip, f"celery=={version}", *of_its_time], check=True)
            staged.rename(folder)
        return folder

    return install


FOREIGN_APP = """
import os, time
from celery import Celery
app = Celery("elsewhere", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND", os.environ["BROKER"]))
app.conf.update(task_default_queue="elsewhere", broker_connection_retry_on_startup=True)

def ran(text):
    with open(os.environ["WRITTEN"], "a") as file:
        file.write(text + "\\n")

@app.task(name="elsewhere.took")
def took(summary, mark="took"):
    ran(f"{mark} {summary['status']} {summary['id']}")
    return summary["id"]

@app.task(name="elsewhere.failed")
def failed(job_id):
    ran(f"failed {job_id}")

@app.task(name="elsewhere.gather")
def gather(results):
    ran(f"gather {len(results)} {','.join(sorted(str(r['status']) for r in results))}")
    return len(results)

@app.task(name="elsewhere.slow", acks_late=True)
def slow(seconds):
    ran("slow started")
    time.sleep(seconds)
    ran("slow done")

@app.task(name="elsewhere.later")
def later():
    ran("later ran")
"""
