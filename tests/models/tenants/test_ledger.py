"""The ledger: a hold is one job's, a charge is counted once, and two processes never give the same money away."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from celora.models.jobs import accept
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Charge, Hold, Job, LedgerMonth
from celora.models.tenants import ledger
from celora.models.tenants.limits import Limits
from celora.models.tenants.use import Use

SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": "acme"}
NOVEMBER, DECEMBER = (datetime(2026, month, 30, 12, tzinfo=UTC) for month in (11, 12))
MINUTE = Use(60_000, 1_000_000)


@pytest.fixture
def books(database):
    return Books(database)


class Books:
    """A tenant's jobs and ledger, each change in a transaction of its own."""

    def __init__(self, database):
        self.database = database

    def new(self, job_id):
        with self.database.transaction(Scope.everything) as session:
            accept.submit(session, job_id=job_id, spec=parse_spec(SPEC))

    def hold(self, job_id, limits=None, wanted=MINUTE, at=NOVEMBER):
        with self.database.transaction(Scope.everything) as session:
            job = session.get_one(Job, job_id)
            job.updated_at = at  # whatever the month in which the tests run
            hold = ledger.want(session, job, wanted, ledger.BYTES)
            month = ledger.lock_month(session, "acme", at)
            return ledger.take_hold(session, month, limits or Limits(), hold)

    def use(self, job_id, seconds, cost, *, began=None, ended=NOVEMBER):
        with self.database.transaction(Scope.everything) as session:
            job = session.get_one(Job, job_id)
            job.updated_at, job.gpu_seconds, job.cost = ended, job.gpu_seconds + seconds, job.cost + cost
            ledger.settle(session, job, began, ended)

    def month(self, name="2026-11"):
        with self.database.session(Scope.everything) as session:
            row = session.get(LedgerMonth, ("acme", name))
            return row and (Use(row.spent_ms, row.spent_micros), Use(row.held_ms, row.held_micros))


def test_a_hold_is_taken_once_and_replaced_by_a_new_estimate(books):
    books.new("one")
    assert books.hold("one") is None
    assert books.hold("one", wanted=Use(90_000, 2)) is None
    assert books.month() == (Use(), Use(90_000, 2))


def test_the_shortest_hold_is_a_minute(books):
    books.new("one")
    books.hold("one", wanted=Use())
    assert books.month() == (Use(), Use(60_000))


def test_a_job_beyond_the_limit_holds_nothing(books):
    for job_id in ("one", "two"):
        books.new(job_id)
    limits = Limits(budget=1.5)
    assert books.hold("one", limits) is None
    assert books.hold("two", limits) == "budget"
    assert books.month() == (Use(), MINUTE)


def test_a_charge_takes_from_the_hold_and_never_more_than_it(books):
    books.new("one")
    books.hold("one")
    books.use("one", 20, 0.25)
    assert books.month() == (Use(20_000, 250_000), Use(40_000, 750_000))
    books.use("one", 100, 5.0)
    assert books.month() == (Use(120_000, 5_250_000), Use())


def test_charging_twice_charges_once(books):
    books.new("one")
    for _ in range(3):
        books.use("one", 0, 0)
    books.use("one", 10, 0.5)
    books.use("one", 0, 0)
    assert books.month()[0] == Use(10_000, 500_000)


def test_a_charge_without_a_hold_is_made_up_for(books):
    books.new("old")  # by a worker of the version before, which has no ledger
    with books.database.transaction(Scope.everything) as session:
        session.get_one(Job, "old").gpu_seconds = 7.0
    books.use("old", 3, 0.1)
    assert books.month()[0] == Use(10_000, 100_000)


def test_a_months_end_in_mid_job_splits_the_charge(books):
    books.new("one")
    books.hold("one")
    midnight = datetime(2026, 12, 1, tzinfo=UTC)
    books.use("one", 40, 4.0, began=midnight - timedelta(seconds=10), ended=midnight + timedelta(seconds=30))
    assert books.month("2026-11") == (Use(10_000, 1_000_000), Use())
    assert books.month("2026-12") == (Use(30_000, 3_000_000), Use(20_000))
    with books.database.session(Scope.everything) as session:
        charges = session.scalars(select(Charge).order_by(Charge.month)).all()
        assert [(row.month, row.device_ms) for row in charges] == [("2026-11", 10_000), ("2026-12", 30_000)]


def test_the_use_of_an_ended_job_is_charged_beside_what_was_settled(books):
    books.new("one")
    books.use("one", 60, 1.0)
    with books.database.transaction(Scope.everything) as session:
        ledger.close(session, session.get_one(Job, "one"))
    with books.database.transaction(Scope.everything) as session:
        job = session.get_one(Job, "one")
        job.updated_at = DECEMBER
        began = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
        ledger.charge_ended(session, job, Use(120_000, 2_000_000), began, began + timedelta(minutes=2))
    assert books.month() == (Use(120_000, 2_000_000), Use())
    assert books.month("2026-12") == (Use(60_000, 1_000_000), Use())
    with books.database.session(Scope.everything) as session:
        assert session.scalar(select(func.sum(Charge.device_ms))) == 180_000
        assert session.get(Hold, "one") is None


def test_a_new_month_takes_over_the_holds(books):
    for job_id in ("one", "two"):
        books.new(job_id)
    books.hold("one")
    assert books.hold("two", Limits(budget=1.5), at=DECEMBER) == "budget"
    assert (books.month("2026-11")[1], books.month("2026-12")[1]) == (Use(), MINUTE)


def test_a_job_of_the_record_is_charged_through_its_transitions(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    ago = timedelta(seconds=30)
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "job").claimed_at -= ago
    record.release(Claim("job", 1, "cpu-0@here", 3600.0), Reason.PREEMPTED)
    record.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 2, Stage.TRAIN, worker_id="cpu-0@here", lease_s=90)
    record.fail(Claim("job", 2, "cpu-0@here", 3600.0), {"code": "diverged", "message": "loss"})
    with record.database.session(Scope.everything) as session:
        job = session.get_one(Job, "job")
        month = session.scalars(select(LedgerMonth)).one()
        charged = session.scalar(select(func.sum(Charge.device_ms)))
        assert session.get(Hold, "job") is None
    assert month.spent_ms == charged == round(job.gpu_seconds * 1000) >= 30_000
    assert (month.spent_micros, month.held_ms, month.held_micros) == (round(job.cost * 1e6), 0, 0)


def test_an_older_worker_that_ended_a_job_leaves_no_hold_for_ever(books):
    books.new("one")
    books.hold("one")
    with books.database.transaction(Scope.everything) as session:
        ledger.close(session, session.get_one(Job, "one"))
    assert books.month() == (Use(), Use())


def test_two_processes_at_the_last_cent_one_wins(books):
    limits, answers, ready = Limits(budget=1.5), [], threading.Barrier(4)
    for number in range(4):
        books.new(f"job-{number}")

    def take(job_id):
        ready.wait(timeout=60)
        answers.append(books.hold(job_id, limits))

    threads = [threading.Thread(target=take, args=(f"job-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(answers, key=str) == [None, "budget", "budget", "budget"]
    assert books.month() == (Use(), MINUTE)


def test_a_pause_gives_the_hold_back(record):
    record.new()
    with record.database.transaction(Scope.everything) as session:
        job = session.get_one(Job, "job")
        hold = ledger.want(session, job, MINUTE, ledger.BYTES)
        month = ledger.lock_month(session, "acme", job.updated_at)
        ledger.take_hold(session, month, Limits(), hold)
    record.request_pause("job")
    with record.database.session(Scope.everything) as session:
        assert session.get_one(Hold, "job").held_ms == 0
        assert session.scalar(select(LedgerMonth.held_ms)) == 0
