"""``alive``, ``migrate-data`` and ``metrics`` as an operator types them."""

import platform
from datetime import timedelta

from sqlalchemy import select

from celora.models import transitions
from celora.models.database import Database, get_database, now
from celora.models.spec import parse_spec
from celora.models.tables import Job, Worker


def registered(*, seen_s_ago=0.0, status="online", name="cpu-0"):
    database = get_database()
    database.migrate()
    with database.transaction() as session:
        worker_id = f"{name}@{platform.node()}"
        row = transitions.register(session, worker_id, host=platform.node(), kind="gpu", gpu_type="cpu", pid=1)
        row.last_seen_at, row.status = now(session) - timedelta(seconds=seen_s_ago), status


def test_a_machine_whose_workers_give_signs_is_alive(celora):
    registered()
    registered(name="cpu-1", status="draining")
    registered(name="cpu-2", status="offline", seen_s_ago=9999)
    result = celora("alive")
    assert result.exit_code == 0
    assert result.stdout == f"alive: cpu-0@{platform.node()}, cpu-1@{platform.node()}\n"


def test_a_worker_that_is_silent_is_named(celora):
    registered(name="cpu-1")
    registered(seen_s_ago=61)
    result = celora("alive")
    assert result.exit_code == 69
    assert f"cpu-0@{platform.node()} gave no sign for 60 s" in result.stderr


def test_a_machine_without_a_worker_is_not_alive(celora):
    registered(status="offline")
    result = celora("alive")
    assert result.exit_code == 69
    assert f"no worker of {platform.node()} is online" in result.stderr


def test_the_record_moves_to_another_database(celora, tmp_path):
    registered(status="offline")
    with get_database().transaction() as session:
        transitions.submit(session, job_id="one", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
    target = f"sqlite:///{tmp_path}/new.db"
    result = celora("migrate-data", get_database().url.render_as_string(hide_password=False), target)
    assert result.exit_code == 0, result.stderr
    assert "job            1" in result.stdout
    assert "4 rows are in" in result.stdout  # tenant, job, its event, worker
    moved = Database(target)
    with moved.session() as session:
        assert list(session.scalars(select(Job.id))) == ["one"]
    moved.dispose()


def test_a_move_under_running_workers_is_refused_in_a_sentence(celora, tmp_path):
    registered()
    result = celora("migrate-data", str(get_database().url), f"sqlite:///{tmp_path}/new.db")
    assert result.exit_code == 64
    assert "Stop celora first" in result.stderr


def test_the_figures_can_be_printed(celora):
    registered()
    result = celora("metrics", "--once")
    assert result.exit_code == 0, result.stderr
    assert "celora_record_up 1.0" in result.stdout
    assert 'celora_workers{gpu_type="cpu",kind="gpu",state="able"} 1.0' in result.stdout
    assert "celora_broker_up 1.0" in result.stdout
    with get_database().session() as session:
        assert session.scalar(select(Worker.status)) == "online"  # asking changes nothing
