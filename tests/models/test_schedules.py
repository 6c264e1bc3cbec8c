"""Schedules in the record: a name once for each tenant, a run once for its key, and the reads of a round."""

from datetime import UTC, datetime, timedelta

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.models import schedules
from celora.models.database import now
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Status
from celora.models.tables import Job

AT = datetime(2026, 11, 30, 3, tzinfo=UTC)
SPEC = {"base_model": "tiny", "dataset": "faq"}


@pytest.fixture
def write(database):
    """Calls a function of the record in a transaction of its own."""

    def call(verb, *args, **options):
        with database.transaction(Scope.everything) as session:
            return verb(session, *args, **options)

    return call


@pytest.fixture
def make(write):
    """Makes a schedule by its name; its id is the name."""

    def made(name="s", tenant="default", **fields):
        given = {"id": f"{tenant}-{name}", "spec": SPEC, "missed": "run-once", "overlap": "skip", **fields}
        return write(schedules.create, name=name, tenant=tenant, **given).id

    return made


def run(write, schedule, key="k", outcome=schedules.WAITING, at=AT):
    return write(schedules.claim_run, schedule, key, at=at, outcome=outcome, message="")


@pytest.fixture
def train(write, database):
    """Gives a run its job, in a status."""

    def trained(schedule, key, status=Status.PENDING, **columns):
        job_id = f"{schedule}-{key}"
        write(accept.submit, job_id=job_id, spec=parse_spec({"base_model": "tiny", "dataset": "/d.jsonl"}))
        with database.transaction(Scope.everything) as session:
            session.get_one(Job, job_id).status = status
            for name, value in columns.items():
                setattr(session.get_one(Job, job_id), name, value)
            made = schedules.claim_run(session, schedule, key, at=AT, outcome=schedules.SUBMITTED, message="")
            made.job_id = job_id
        return job_id

    return trained


def test_a_name_stands_once_for_each_tenant(make, write):
    made = make()
    assert make(tenant="acme") != made
    with pytest.raises(SettingsError, match="there is a schedule s already") as refused:
        make(id="another")
    assert "celora schedule remove s" in refused.value.hint
    assert write(schedules.find, "default", "s").id == made
    assert write(schedules.find, "acme", "s").tenant == "acme"


def test_a_name_that_is_not_there_is_told_with_the_nearest_of_its_tenant(make, write):
    make("nightly")
    make("weekly", tenant="acme")
    with pytest.raises(NotFoundError, match="there is no schedule nigthly; did you mean nightly"):
        write(schedules.find, "default", "nigthly")
    with pytest.raises(NotFoundError, match="there is no schedule weekl") as refused:
        write(schedules.find, "default", "weekl")
    assert "did you mean" not in refused.value.message, "another tenant's name is nobody's business"


def test_a_new_schedule_counts_from_its_making(make, write, database):
    make()
    found = write(schedules.find, "default", "s")
    assert found.created_at == found.updated_at == found.last_slot
    assert (found.paused, found.next_slot, found.last_error) == (False, None, None)


def test_schedules_are_listed_by_tenant_and_name_each_with_its_last_run(make, write, train):
    for name, tenant in (("b", "default"), ("a", "default"), ("c", "acme")):
        make(name, tenant)
    train("default-a", "k1", Status.COMPLETED, summary={"champion": {"promote": True}})
    rows = write(schedules.listed)
    assert [(row["tenant"], row["name"]) for row in rows] == [("acme", "c"), ("default", "a"), ("default", "b")]
    assert [row["last"] and row["last"]["key"] for row in rows] == [None, "k1", None]
    last = rows[1]["last"]
    assert (last["status"], last["contest"], last["outcome"]) == ("completed", {"promote": True}, "submitted")
    assert [row["name"] for row in write(schedules.listed, "acme")] == ["c"]


def test_the_last_runs_come_first_and_no_more_than_wanted(make, write):
    made = make()
    for number in range(4):
        run(write, made, f"k{number}", schedules.SKIPPED, AT + timedelta(hours=number))
    found = write(schedules.recent, made, limit=3)
    assert [row["key"] for row in found] == ["k3", "k2", "k1"]
    assert {(row["job_id"], row["status"], row["contest"]) for row in found} == {(None, None, None)}


@pytest.mark.parametrize(
    ("fields", "waiting", "due"),
    [
        ({"every_s": 60, "next_slot": AT}, False, True),
        ({"cron": "0 3 * * *", "next_slot": AT}, False, True),
        ({"every_s": 60, "next_slot": datetime(2999, 1, 1, tzinfo=UTC)}, False, False),
        ({"every_s": 60, "next_slot": datetime(2999, 1, 1, tzinfo=UTC)}, True, True),
        ({"when_data_changed": True}, False, True),
        ({"when_new_rows": 9}, False, True),
        ({"every_s": 60, "next_slot": AT, "paused": True}, True, False),
        ({"when_data_changed": True, "paused": True}, False, False),
    ],
)
def test_a_round_looks_at_what_is_due_watches_data_or_has_a_run_that_waits(make, write, fields, waiting, due):
    if fields.get("next_slot") == AT:
        fields = {**fields, "next_slot": write(now)}
    made = make(**fields)
    run(write, made, "k", schedules.WAITING if waiting else schedules.SKIPPED)
    assert write(schedules.due_or_watching) == ([made] if due else [])


def test_a_lock_gives_the_row_or_none_where_it_is_gone(make, write):
    made = make()
    before = write(schedules.find, "default", "s").updated_at
    assert write(schedules.lock, made).updated_at > before
    assert write(schedules.lock, "nobody") is None


def test_a_run_is_claimed_once_for_its_key(make, write):
    one, other = make("a"), make("b")
    assert run(write, one).outcome == schedules.WAITING
    assert run(write, one, outcome=schedules.SUBMITTED) is None
    assert run(write, other) is not None
    (row,) = write(schedules.recent, one, limit=9)
    assert (row["outcome"], row["at"]) == (schedules.WAITING, AT)


def test_the_newest_job_that_has_not_ended_is_the_unfinished_one(make, write, train):
    made = make()
    assert write(schedules.unfinished, made) is None
    train(made, "k1", Status.RUNNING)
    last = train(made, "k2")
    train(made, "k3", Status.FAILED)
    assert write(schedules.unfinished, made).id == last
    assert write(schedules.unfinished, make("other")) is None
    assert write(schedules.run_of, last).key == "k2"
    assert write(schedules.run_of, "nobody") is None


def test_runs_wait_in_the_order_in_which_they_came(make, write):
    made = make()
    for key in ("k2", "k1", "k3"):
        run(write, made, key)
    run(write, made, "k0", schedules.SKIPPED)
    assert [each.key for each in write(schedules.waiting_runs, made)] == ["k2", "k1", "k3"]


def test_the_same_fault_is_written_once(make, write):
    make()

    def fault():
        found = write(schedules.find, "default", "s")
        return found.last_error, found.last_error_at

    write(schedules.record_fault, "default-s", "the disk is full.")
    first = fault()
    write(schedules.record_fault, "default-s", "the disk is full.")
    assert fault() == first == ("the disk is full.", first[1])
    write(schedules.record_fault, "default-s", "the file is gone.")
    assert fault()[0] == "the file is gone."
    assert fault()[1] >= first[1]
