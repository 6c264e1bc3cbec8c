import os
import signal

import pytest

from celora.cli.node import until_interrupted
from celora.cli.open_record import record
from celora.models import workers
from celora.models.scope.scope import Scope
from celora.settings.settings import get_settings


@pytest.fixture
def worker(home):
    with record().session(Scope.everything) as session:
        workers.register(
            session, "cpu-0@here", host="here", kind="gpu", gpu_type="cpu", device_index=0, device_uuid="",
            memory_bytes=2**33, slots=1, pid=1, versions={}, queues=["gpu.cpu"],
        )  # fmt: skip


@pytest.mark.usefixtures("worker")
def test_workers_are_listed_with_what_they_run(celora):
    (told,) = celora("workers", "--json").json()
    assert (told["id"], told["gpu_type"], told["device_index"], told["status"]) == ("cpu-0@here", "cpu", 0, "online")
    assert told["jobs"] == []
    assert "cpu-0@here" in celora("workers").stdout


def test_without_a_worker_it_says_what_to_do(celora):
    assert "celora up" in celora("workers").stdout


@pytest.mark.usefixtures("worker")
def test_queues_tell_what_waits_what_runs_and_what_is_free(celora):
    told = {row["queue"]: row for row in celora("queues", "--json").json()}
    assert told["gpu.cpu"]["free"] == 1
    assert all({"waiting", "running", "free"} <= set(row) for row in told.values())
    assert "gpu.cpu" in celora("queues").stdout


def test_migrate_makes_the_tables_and_may_run_again(celora, home):
    for _ in range(2):
        result = celora("migrate")
        assert result.exit_code == 0
        assert "is up to date" in result.stdout
    assert (home / "celora.db").is_file()


def test_a_migration_stands_in_the_audit_once(celora, new_home):
    for _ in range(2):
        celora("migrate")
    rows = celora("audit", "--action", "record", "--json").json()
    assert [(row["action"], row["before"], row["tenant"]) for row in rows] == [
        ("record.migrate", {"version": None}, None)
    ]
    assert int(rows[0]["after"]["version"]) >= 10


def test_a_node_without_a_broker_is_refused(celora, monkeypatch):
    monkeypatch.delenv("CELORA_BROKER_URL")
    get_settings.cache_clear()
    result = celora("node")
    assert result.exit_code == 64
    assert "needs a broker" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_request_to_end_is_one_interruption_and_the_rest_is_ignored(number):
    before = signal.getsignal(number)
    with until_interrupted():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
