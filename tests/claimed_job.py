"""A job that a worker has claimed, in an installation of its own without a broker."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from sqlalchemy.orm import Session

from celora.models.database import get_database
from celora.models.jobs import accept, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage
from celora.models.tables import Event, Job, Worker
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.manifest import write_manifest
from celora.workers import messages
from celora.workers.stages import runner
from celora.workers.trainer import process

WORKER = "cpu-0@here"
BASE = {"source": "tiny", "kind": "folder", "name": "tiny", "revision": "r1", "parameters": 9, "context_tokens": 64,
        "model_type": "llama"}  # fmt: skip
PREPARED = {"base": BASE, "dataset_sha256": "0" * 64, "train_rows": 8, "eval_rows": {"eval": 2}, "train_tokens": 99,
            "trained_tokens": 50, "max_length": 32, "template": "own", "memory_bytes": 1000, "receipt": {}}  # fmt: skip
RESOLVED = {"micro_batch": 4, "accumulation": 4, "effective_batch": 16, "learning_rate": 0.001, "max_length": 32,
            "gradient_checkpointing": False, "optimizer": "adamw", "compute_dtype": "float32"}  # fmt: skip
TRAINED = {"resolved": RESOLVED, "steps": 9, "planned_steps": 9, "train_loss": 1.5, "eval_loss": 2.0, "tokens": 99,
           "trainable_parameters": 3, "total_parameters": 90, "train_s": 1.0, "adapter_dir": "a"}  # fmt: skip


FILES = {
    "prepared": {"prepared.json": json.dumps(PREPARED), "tokenizer/tokenizer.json": "{}"},
    "adapter": {"adapter_model.safetensors": "weights", "adapter_config.json": '{"r": 16, "target_modules": ["q"]}'},
}
"""The files that later stages read."""

SPEAKS = """
import json, os, pathlib, sys
fd = int(sys.argv[-1])
request = json.loads(sys.stdin.readline())
folder = pathlib.Path(request["out_dir"], {folder!r}); folder.mkdir(parents=True)
(folder / "made").write_text("by the trainer")
os.write(fd, json.dumps({event}).encode() + b"\\n")
"""


class Installation:
    """A record with one job, which a worker carries through its stages."""

    def __init__(self):
        self.database, self.settings = get_database(), get_settings()
        self.database.migrate()

    def job(self):
        with self.database.session(Scope.everything) as session:
            return session.get_one(Job, "j")

    def kinds(self):
        with self.database.session(Scope.everything) as session:
            return [event.kind for event in session.query(Event).order_by(Event.id)]

    def write(self, verb, *args, **options):
        with self.database.transaction(Scope.everything) as session:
            return verb(session, *args, **options)

    def send(self, stage, **spec):
        """Bring a new job to a stage that is queued; returns the request of its message."""
        fields = {"base_model": "tiny", "dataset": "/data/rows.jsonl"} | spec
        self.write(accept.submit, job_id="j", spec=parse_spec(fields), request={"id": "j"})
        values = {
            Stage.PREPARE: {"base": BASE, "prepared": PREPARED, "prepared_uri": self.folder("prepared")},
            Stage.TRAIN: {"result": TRAINED | {"adapter_uri": self.folder("adapter")}, "resolved": RESOLVED},
        }
        for passing in Stage:
            if passing in (Stage.PREPARE, Stage.TRAIN):
                assert self.write(transitions.send, "j", 1, passing, queue="q", gpu_type="cpu")
            if passing is stage:
                return self.request(stage)
            assert self.write(transitions.claim, "j", 1, passing, worker_id=WORKER, lease_s=90)
            assert self.write(transitions.advance, Claim("j", 1, WORKER), passing, values.get(passing, {}))
        return None

    def folder(self, name):
        """A folder of the job's first attempt below the artifact root; its URI."""
        path = self.settings.home / "made" / name
        for file, content in {"file": name, **FILES.get(name, {})}.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(content)
        write_manifest(path)
        artifacts = Artifacts(self.settings.artifacts)
        uri = artifacts.uri("jobs", "j", "attempt-1", name)
        artifacts.put_folder(path, uri)
        return uri

    def request(self, stage):
        return SimpleNamespace(id=f"j.{stage}.1.1", hostname=WORKER, chain=["the rest"])

    def claimed(self, stage, **spec):
        """A context in which the job's stage is claimed."""
        return runner.claimed(self.send(stage, **spec), stage, "j", 1)


@pytest.fixture
def installation(home, monkeypatch):
    monkeypatch.setenv("CELORA_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELORA_MAX_ATTEMPTS", "3")
    get_settings.cache_clear()
    yield Installation()
    messages.note_broker_up()  # the next test may have a broker


@pytest.fixture
def register_worker(installation):
    """Put the worker of the messages into the record, with the queues that it reads."""

    def register(*, queues, cordoned=False):
        now = datetime.now(UTC)
        facts = {"host": "here", "kind": "gpu", "pid": 1, "status": "online", "registered_at": now, "last_seen_at": now}
        installation.write(Session.merge, Worker(id=WORKER, queues=queues, cordoned=cordoned, **facts))

    return register


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Replaces the trainer program by one that writes a folder below its ``out_dir`` and says one event."""

    def says(event, folder=""):
        program = tmp_path / "program.py"
        program.write_text(SPEAKS.format(folder=folder, event=repr(event)))
        monkeypatch.setattr(process, "PROGRAM", ("-S", str(program)))
        monkeypatch.setattr(process, "AVAILABLE", False)  # it forks no trainers

    return says


@pytest.fixture
def carry(installation):
    """Runs a task as a worker does that received its message."""

    def run(task, stage, **kwargs):
        request = vars(installation.request(stage)) | {"called_directly": False}
        task.push_request(**request)
        try:
            return task.run(job_id="j", **kwargs)
        finally:
            task.pop_request()

    return run
