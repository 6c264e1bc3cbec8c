"""A run of a schedule becomes a job, waits, is skipped or replaced, or fails with its reason; once."""

import pytest
from recurring import HOUR_S, SPEC, jobs, outcomes, together, version, versions_of

from celora.errors import DataError
from celora.models import schedules as rows_of
from celora.models.database import now
from celora.models.jobs import transitions
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables.schedule import Schedule, ScheduleRun
from celora.scheduling.due import Overlap
from celora.services import schedule_runs, schedules
from celora.services.job_checks import check_id
from celora.services.rounds import due_schedules
from celora.settings.settings import get_settings


def test_runs_that_wait_are_trained_in_order_each_once(record, patient, look, pass_time, end):
    schedules.add("s", SPEC, every="1h", overlap="queue")
    pass_time(4.2 * 3600)
    for number in range(1, 5):
        together(3, look)
        assert len(jobs(record)) == number
        end()
    look()
    assert len(jobs(record)) == 4
    assert outcomes() == ["submitted"] * 4
    at = [row["at"] for row in schedules.show("s")["slots"]]
    assert at == sorted(at, reverse=True)


def test_a_field_that_a_later_version_wrote_into_a_schedule_prevents_no_run(record, look, pass_time):
    schedules.add("s", SPEC, every="1h")
    with record.transaction(Scope.everything) as session:
        schedule = session.query(Schedule).one()
        schedule.spec = {**schedule.spec, "of_a_later_version": True}
    pass_time(HOUR_S)
    assert look() == 1
    assert outcomes() == ["submitted"]
    assert schedules.run_now("s")["outcome"] == "waiting"


def test_overlaps_are_skipped(record, look, pass_time, end):
    schedules.add("s", SPEC, every="1h")
    for _ in range(3):
        pass_time(HOUR_S)
        look()
    assert outcomes() == ["submitted", "skipped", "skipped"]
    assert f"job {jobs(record)[0].id} is not over" in schedules.show("s")["slots"][0]["message"]
    end()
    pass_time(HOUR_S)
    assert look() == 1


def test_overlaps_replace_the_one_that_waits_and_never_the_one_that_runs(record, look, pass_time, end):
    schedules.add("s", SPEC, every="1h", overlap="replace")
    for _ in range(2):
        pass_time(HOUR_S)
        look()
    first, second = jobs(record)
    assert (first.status, second.status) == (Status.CANCELLED, Status.PENDING)
    with record.transaction(Scope.everything) as session:
        transitions.send(session, second.id, 1, Stage.PREPARE, queue="prep")
        transitions.claim(session, second.id, 1, Stage.PREPARE, worker_id="w", lease_s=60)
    for _ in range(2):
        pass_time(HOUR_S)
        look()
    assert outcomes() == ["replaced", "submitted", "replaced", "waiting"]
    assert [job.status for job in jobs(record)] == [Status.CANCELLED, Status.RUNNING]
    end()
    look()
    assert outcomes()[-1] == "submitted"


def test_a_job_trains_on_the_version_of_its_run(record, look, pass_time, end, home):
    schedules.add("s", SPEC, every="1h", overlap="queue")
    pass_time(HOUR_S)
    look()
    version(record, "b")
    pass_time(HOUR_S)
    look()
    version(record, "c")
    end()
    look()
    first, second = jobs(record)
    assert (versions_of(record, first.id), versions_of(record, second.id)) == ([1], [2])


def test_a_spec_that_is_refused_by_now_fails_its_run(record, look, pass_time, monkeypatch):
    schedules.add("s", SPEC, every="1h")
    pass_time(HOUR_S)
    strict = get_settings().model_copy(update={"allowed_bases": ["other*"]})
    assert due_schedules.run_due_schedules(record, strict) == 0
    assert "is not allowed on this installation" in schedules.show("s")["last_error"]
    assert outcomes() == ["failed"]


@pytest.fixture
def start(record):
    """Starts a run of the schedule ``s``; returns its outcome, its job and its message, or None."""

    def run(key, order=SPEC, **options):
        with record.transaction(Scope.everything) as session:
            schedule = rows_of.lock(session, rows_of.find(session, "default", "s").id)
            given = {"settings": get_settings(), "at": now(session), "order": order, **options}
            made = schedule_runs.start_run(session, schedule, key, **given)
            return made and (made.outcome, made.job_id, made.message)

    schedules.add("s", SPEC, every="1h", overlap="queue")
    return run


def test_a_key_is_claimed_once_whatever_comes_of_it(start, end):
    outcome, job_id, _ = start("k1")
    assert (outcome, job_id.startswith("s-k1-")) == ("submitted", True)
    end()
    assert start("k1") is None
    assert start("k2", DataError("it is gone."))[0] == "failed"
    assert start("k2") is None


def test_an_order_that_cannot_be_determined_is_a_failed_job_and_the_schedule_s_fault(start, record):
    outcome, job_id, message = start("k", DataError("the file is gone.", hint="Put it back."), note="2 were missed")
    assert (outcome, message) == ("failed", "the file is gone. Put it back.; 2 were missed")
    (job,) = jobs(record)
    assert (job.id, job.status, job.error["code"], job.tenant) == (job_id, Status.FAILED, "bad_data", "default")
    assert schedules.show("s")["last_error"] == "the file is gone. Put it back."


def test_a_rule_may_stand_in_for_the_schedule_s_own(start):
    start("k1")
    assert start("k2", overlap=Overlap.SKIP)[0] == "skipped"
    outcome, _, message = start("k3", note="a note")
    assert (outcome, message.startswith("behind job s-k1-"), message.endswith("; a note")) == ("waiting", True, True)
    assert start("k4", overlap=Overlap.REPLACE)[0] == "submitted"
    assert outcomes() == ["replaced", "skipped", "replaced", "submitted"]


def test_a_waiting_run_that_is_refused_by_now_lets_the_next_one_through(start, record, end):
    start("k1")
    for key in ("k2", "k3"):
        assert start(key)[0] == "waiting"
    with record.transaction(Scope.everything) as session:
        second = session.get_one(ScheduleRun, (schedules.show("s")["id"], "k2"))
        second.spec = {**second.spec, "gpu": "t9"}
    end()
    with record.transaction(Scope.everything) as session:
        schedule = rows_of.find(session, "default", "s")
        assert schedule_runs.submit_next_waiting(session, get_settings(), schedule) == 1
    assert outcomes() == ["submitted", "failed", "submitted"]


@pytest.mark.parametrize(
    ("name", "key", "begins"),
    [
        ("s", "20261130T030000Z", "s-20261130T030000Z-"),
        ("night.ly_one", "faq@3", "night-ly-one-faq-3-"),
        ("n" * 64, "k" * 64, "n" * 24 + "-" + "k" * 24 + "-"),
    ],
)
def test_the_id_of_a_job_follows_from_its_schedule_and_key(name, key, begins):
    made = schedule_runs.job_id_of(Schedule(id="a", name=name), key)
    assert made.startswith(begins)
    assert made == check_id(made)
    assert made == schedule_runs.job_id_of(Schedule(id="a", name=name), key)
    assert made != schedule_runs.job_id_of(Schedule(id="b", name=name), key)


@pytest.mark.parametrize(("error", "text"), [(DataError("a.", hint="b."), "a. b."), (KeyError("oh"), "KeyError: 'oh'")])
def test_an_error_is_told_in_a_sentence(error, text):
    assert schedule_runs.error_text(error) == text
