"""A full disk is called a full disk wherever it strikes, and the work goes on when there is room again.

The disk is a tmpfs of a few MiB, which only root may mount; elsewhere the tests are skipped.
"""

import json
import os
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
import redis
from sqlalchemy import func, select

from celora.doctor.server import look_at
from celora.errors import DiskFullError, UnavailableError
from celora.models.database import Database
from celora.models.jobs import accept, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Event, Job
from celora.settings.secrets import Secrets
from celora.storage.artifacts import Artifacts
from celora.workers.lease import Lease
from celora.workers.node.embedded_broker import EmbeddedBroker
from celora.workers.trainer.log_files import mask

SIZE_BYTES = 16 * 2**20
WORKER = "cpu-0@here"


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "celora-test", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield place
    subprocess.run(["/bin/umount", "-l", str(place)], check=True)


@contextmanager
def filled(disk):
    """Fill the disk for the block."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size_bytes in (2**20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size_bytes)
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def running(disk):
    """A record on the disk in which a worker trains a job, and the claim."""
    database = Database(f"sqlite:///{disk}/celora.db")
    database.migrate()
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id="job", spec=parse_spec({"base_model": "tiny", "dataset": "/d.jsonl"}))
        job = session.get_one(Job, "job")
        transitions.send(session, "job", job.attempt, Stage.PREPARE, queue="prep")
        assert transitions.claim(session, "job", job.attempt, Stage.PREPARE, worker_id=WORKER, lease_s=90)
    yield database, Claim("job", 1, WORKER)
    database.dispose()


def note(database, letters):
    with database.transaction(Scope.everything) as session:
        at = session.get_one(Job, "job").created_at
        session.add(Event(job_id="job", attempt=1, at=at, level="info", kind="note", message="x" * letters, data=None))


def test_the_record_says_that_its_disk_is_full_and_goes_on_with_room(disk, running):
    database, _ = running
    with filled(disk):
        for _ in range(3):
            with pytest.raises(DiskFullError, match=r"no space left for the record at .*celora\.db.* MiB free"):
                note(database, 2**20)
        with database.session(Scope.everything) as session:
            assert session.get_one(Job, "job").status is Status.RUNNING
    note(database, 2**20)
    with database.session(Scope.everything) as session:
        assert session.scalar(select(func.count()).where(Event.kind == "note")) == 1


def test_a_full_record_is_away_for_its_workers_who_wait_for_it(disk, running):
    """Every ``except UnavailableError`` that keeps a running job through an outage keeps it here, too."""
    database, _ = running
    with filled(disk), pytest.raises(UnavailableError):
        note(database, 2**20)


def test_a_lease_is_renewed_again_after_the_disk_was_full(disk, running, caplog):
    database, claim = running

    def until():
        with database.session(Scope.everything) as session:
            return session.get_one(Job, "job").lease_until

    with Lease(database, claim, lease_s=90, heartbeat_s=0.05) as lease:
        with filled(disk):
            _until(lambda: "the lease could not be renewed" in caplog.text)
        assert lease._thread.is_alive()
        before = until()
        _until(lambda: until() > before)
    assert not lease.lost


def test_an_upload_and_an_import_say_so_leave_nothing_and_work_with_room(disk, tmp_path):
    artifacts = Artifacts(f"file://{disk}/artifacts")
    folder, rows = tmp_path / "made", tmp_path / "rows.jsonl"
    folder.mkdir()
    (folder / "adapter.safetensors").write_bytes(b"w" * 2**20)
    rows.write_bytes(b'{"prompt": "a", "completion": "b"}\n' * 50_000)
    from celora.storage.manifest import write_manifest

    write_manifest(folder)
    with filled(disk):
        with pytest.raises(DiskFullError, match="no space left at"):
            artifacts.put_folder(folder, artifacts.uri("jobs", "a"))
        with pytest.raises(DiskFullError, match="no space left at"):
            artifacts.import_dataset(rows)
    left = [path for path in (disk / "artifacts").rglob("*") if path.is_file()]
    assert left == []
    artifacts.put_folder(folder, artifacts.uri("jobs", "a"))
    artifacts.import_dataset(rows)


def test_a_log_that_cannot_be_masked_is_emptied_and_keeps_no_secret(disk, home, tmp_path):
    Secrets(home).set("HF_TOKEN", "hf_" + "S" * 34)
    log = disk / "train.log"
    log.write_text("Authorization: hf_" + "S" * 34 + "\n" + "step\n" * 200_000)
    with filled(disk):
        assert mask(log)
    assert "SSSS" not in log.read_text()
    assert "the disk was full" in log.read_text()


def test_the_broker_says_so_and_takes_messages_again_with_room(disk):
    server = EmbeddedBroker(disk / "broker")
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.lpush("queue", json.dumps({"a": 1}))
            with filled(disk):
                refused = _until(lambda: _refusal(client))
                assert "No space left" in refused or "MISCONF" in refused
                with pytest.raises(UnavailableError, match="takes no messages, since it can't write its file"):
                    look_at(server.url)
            _until(lambda: not _refusal(client))
            assert client.llen("queue") >= 1
            assert look_at(server.url).local
    finally:
        server.stop()


def _refusal(client):
    try:
        client.lpush("filling", "x" * 65_536)
    except redis.ResponseError as error:
        return str(error)
    return ""


def _until(look, within_s=60):
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        threading.Event().wait(0.1)
    return found
