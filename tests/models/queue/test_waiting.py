"""The reads of a scheduling round: lanes, the first jobs of each, held slots, counts."""

from datetime import timedelta

import pytest
from sqlalchemy import text, update

from celora.models.database import now
from celora.models.queue import waiting
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import JobClass, Reason, Ruling, Stage, Status
from celora.models.tables import Job

WORKER = "cpu-0@here"


@pytest.fixture
def read(record):
    """Calls a read with a session of its own."""

    def call(function, *args, **options):
        with record.database.session(Scope.everything) as session:
            return function(session, *args, **options)

    return call


def first(record, lane, *, most=10, aged_s=3600.0):
    with record.database.session(Scope.everything) as session:
        at = now(session)
        rows, cut = waiting.heads(session, {lane: waiting.Part(most)}, at, aged_before=at - timedelta(seconds=aged_s))
        return [row.id for row in rows], bool(cut)


def change(record, job_id, **values):
    with record.database.transaction(Scope.everything) as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def test_the_lanes_are_those_in_which_a_job_waits(record, read):
    assert read(waiting.lanes) == []
    record.new("a", tenant="acme", gpu="h100")
    record.new("b", tenant="acme", gpu="h100")
    record.new("c", tenant="rival")
    record.new("d", tenant="rival")
    change(record, "d", job_class=JobClass.URGENT, labels="highmem")
    record.new("paused", tenant="third")
    record.request_pause("paused")
    assert sorted(read(waiting.lanes)) == [
        (Stage.PREPARE, JobClass.NORMAL, "auto", "", "rival"),
        (Stage.PREPARE, JobClass.NORMAL, "h100", "", "acme"),
        (Stage.PREPARE, JobClass.URGENT, "auto", "highmem", "rival"),
    ]


def test_a_lane_is_read_in_the_order_of_turns_and_as_far_as_asked(record):
    for number in range(4):
        record.new(f"j{number}")
    record.new("dear", priority=5)
    record.new("back", priority=-5)
    change(record, "back", recovered=True)
    lane = (Stage.PREPARE, JobClass.NORMAL, "auto", "", "acme")
    assert first(record, lane) == (["back", "dear", "j0", "j1", "j2", "j3"], False)
    assert first(record, lane, most=3) == (["back", "dear", "j0"], True)
    assert first(record, (*lane[:4], "nobody")) == ([], False)


def test_the_oldest_jobs_are_read_too_once_they_have_aged(record):
    record.new("old", priority=-9)
    for number in range(3):
        record.new(f"j{number}", priority=9)
    lane = (Stage.PREPARE, JobClass.NORMAL, "auto", "", "acme")
    assert first(record, lane, most=2) == (["j0", "j1"], True)
    assert first(record, lane, most=2, aged_s=0.0)[0] == ["j0", "j1", "old"]


def test_a_job_that_no_free_slot_can_hold_is_left_out_and_those_behind_it_are_read(record):
    for name, need, least in (("large", 90, None), ("grown", 10, 90), ("small", 10, 12), ("unknown", None, None)):
        record.new(name)
        change(record, name, memory_bytes=need, least_memory_bytes=least)
    lane = (Stage.PREPARE, JobClass.NORMAL, "auto", "", "acme")
    with record.database.session(Scope.everything) as session:
        rows, cut = waiting.heads(session, {lane: waiting.Part(2, 80)}, now(session), aged_before=now(session))
    assert {row.id for row in rows} == {"small", "unknown"}
    assert cut == {lane}


def test_a_job_that_rests_is_left_out_until_its_time(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.try_again(Claim("job", 1, WORKER), {"code": "storage"}, Ruling(again=True, wait_s=600))
    lane = (Stage.TRAIN, JobClass.NORMAL, "auto", "", "acme")
    assert first(record, lane) == ([], False)
    with record.database.session(Scope.everything) as session:
        change(record, "job", not_before=now(session) - timedelta(seconds=1))
    assert first(record, lane) == (["job"], False)


def test_held_slots_are_those_of_sent_and_running_jobs(record, read):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.new("waits")
    record.new("sent")
    record.send("sent", 1, Stage.PREPARE, queue="prep")
    rows = {row.id: (row.stage, row.status, row.gpu_type) for row in read(waiting.held)}
    assert rows == {
        "job": (Stage.TRAIN, Status.RUNNING, "cpu"),
        "sent": (Stage.PREPARE, Status.QUEUED, None),
    }
    record.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    assert [row.id for row in read(waiting.held)] == ["sent"]


def test_the_reads_of_waiting_jobs_use_the_partial_index(record, read):
    """A scan of the whole table, or a sort of all waiting jobs, would grow with their number.

    In a nearly empty table PostgreSQL takes any index: each costs the same.
    """
    for number in range(300):
        record.new(f"j{number}")
    plans: list[str] = []

    def explained(session):
        connection = session.connection()
        sqlite = connection.dialect.name == "sqlite"
        if not sqlite:
            session.execute(text("ANALYZE job"))
        mine = waiting.select(waiting.Job.id).where(waiting.in_queue(), Job.stage == Stage.PREPARE)
        words = mine.order_by(*waiting.LANE).limit(1).compile(connection, compile_kwargs={"literal_binds": True})
        how = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        plans.extend(str(row) for row in session.execute(text(f"{how} {words}")))

    read(explained)
    assert any("ix_job_turn" in line or "ix_job_age" in line for line in plans), plans


def test_sqlite_reads_of_each_lane_one_job(record):
    """A round's cost follows the number of lanes: SQLite's own steps for a long queue are those for a short one."""
    if record.database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL goes to the end of a lane by the lane's columns alone")

    def steps():
        count = [0]

        def step():
            count[0] += 1
            return 0

        with record.database.session(Scope.everything) as session:
            raw = session.connection().connection.driver_connection
            raw.set_progress_handler(step, 1)
            found = waiting.lanes(session)
            raw.set_progress_handler(None, 1)
        return len(found), count[0]

    for number in range(10):
        record.new(f"j{number}")
    short = steps()
    for number in range(300):
        record.new(f"k{number}")
    assert steps() == short
