"""Rounds over the schedules: each run once, whoever looks, however late, and whatever dies."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from recurring import HOUR_S, SPEC, jobs, outcomes, together, version, versions_of, write
from sqlalchemy import func, select

from celora.errors import DiskFullError
from celora.models.notifications.deliveries import list_deliveries
from celora.models.notifications.notices import Notice
from celora.models.notifications.receivers import NewReceiver, add_receiver
from celora.models.scope.scope import Scope
from celora.models.states import Status
from celora.models.tables.schedule import Schedule, ScheduleRun
from celora.services import datasets, schedules
from celora.services.rounds import due_schedules
from celora.settings.settings import get_settings
from celora.tuning.semantics import MEANING


def test_a_run_that_is_due_becomes_a_job_and_is_due_once(record, look, pass_time):
    schedules.add("s", SPEC, every="1h")
    assert look() == 0
    pass_time(HOUR_S)
    assert [look(), look(), look()] == [1, 0, 0]
    (job,) = jobs(record)
    shown = schedules.show("s")
    assert (shown["slots"][0]["job_id"], shown["slots"][0]["status"]) == (job.id, "pending")
    assert job.id.startswith("s-20")
    assert shown["next_slot"] == shown["upcoming"][0]
    assert len(shown["upcoming"]) == 5


def test_of_many_that_look_at_once_one_gives_the_run_its_job(record, patient, look, pass_time):
    for name in ("s", "t"):
        schedules.add(name, SPEC, every="1h", overlap="queue")
    pass_time(4.2 * 3600)
    together(6, look)
    with record.session(Scope.everything) as session:
        assert session.scalar(select(func.count()).select_from(ScheduleRun)) == 8
    assert len(jobs(record)) == 2
    assert [outcomes(name) for name in ("s", "t")] == [["submitted", "waiting", "waiting", "waiting"]] * 2


PROGRAM = (
    "from celora.models.database import get_database; from celora.settings.settings import get_settings;"
    "from celora.services.rounds.due_schedules import run_due_schedules;"
    "run_due_schedules(get_database(), get_settings())"
)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "left"), [("slots.written", 0), ("slots.committed", 1)])
def test_one_that_is_killed_leaves_a_run_whole_or_untouched(record, look, pass_time, point, left):
    schedules.add("s", SPEC, every="1h")
    pass_time(HOUR_S)
    environment = {**os.environ, "CELORA_FAILPOINT": f"{point}:kill"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, timeout=240, check=False)
    assert done.returncode == -9
    assert (len(jobs(record)), len(outcomes())) == (left, left)
    look()
    assert (len(jobs(record)), len(outcomes())) == (1, 1)


def test_a_schedule_runs_on_after_a_clock_that_was_a_day_ahead_was_set_back(record, look, pass_time):
    for name, rule in (("often", {"every": "1h"}), ("lined", {"cron": "0 * * * *"})):
        schedules.add(name, SPEC, **rule, overlap="queue")
    pass_time(HOUR_S)
    assert look() == 2
    pass_time(-86400)
    assert look() == 0
    for name in ("often", "lined"):
        shown = schedules.show(name)
        assert shown["last_slot"] < shown["next_slot"] == shown["upcoming"][0]
        assert (shown["next_slot"] - shown["last_slot"]).total_seconds() <= HOUR_S
    pass_time(HOUR_S)
    look()
    assert len(outcomes("often")) == 2


def test_a_run_that_happened_while_the_clock_was_ahead_does_not_happen_again(record, look, pass_time):
    schedules.add("s", SPEC, every="1h")
    pass_time(HOUR_S)
    assert look() == 1
    with record.transaction(
        Scope.everything
    ) as session:  # the clock is set back by two seconds: the run lies ahead once more
        schedule = session.scalars(select(Schedule)).one()
        schedule.last_slot = schedule.last_slot + timedelta(seconds=2)
        schedule.next_slot = schedule.last_slot
    assert [look(), look()] == [0, 0]
    assert len(outcomes()) == 1


def test_missed_runs_happen_once_or_are_skipped(record, look, pass_time):
    with record.transaction(Scope.everything) as session:
        facts = {"kind": "channel", "name": "ops", "url": "u", "sealed": "s"}
        add_receiver(session, "default", NewReceiver(id="r1", notices=[Notice.MISSED], **facts))
    schedules.add("once", SPEC, every="1h")
    schedules.add("never", SPEC, every="1h", missed="skip")
    pass_time(9.5 * 3600)
    assert look() == 1
    (once,), (never,) = schedules.show("once")["slots"], schedules.show("never")["slots"]
    assert (once["outcome"], never["outcome"]) == ("submitted", "missed")
    assert "9 runs were missed" in once["message"]
    assert "9 runs were missed" in never["message"]
    pass_time(0.5 * 3600)
    look()
    assert outcomes("never") == ["missed", "submitted"]
    with record.session(Scope.everything) as session:
        told = {delivery.subject: delivery.facts["made_up"] for delivery, _ in list_deliveries(session)}
    assert told == {"once": True, "never": False}


def test_a_dataset_that_changed_is_trained_once_for_each_content(record, look, end, home):
    schedules.add("s", SPEC, when_data_changed=True)
    assert look() == 0
    version(record, "b")
    together(3, look)
    assert len(jobs(record)) == 1
    end()
    assert look() == 0
    version(record, "a")  # as it was: no new version
    assert look() == 0


def test_unchanged_data_is_trained_once_more_when_celora_makes_something_else_of_it(record, look, end, home):
    schedules.add("s", SPEC, when_data_changed=True)
    version(record, "b")
    assert look() == 1
    end()
    with record.transaction(Scope.everything) as session:  # as a version before this one wrote them
        for schedule in session.scalars(select(Schedule)):
            schedule.seen = {name: value for name, value in schedule.seen.items() if name != "semantics"}
    assert look() == 1
    end()
    assert look() == 0
    assert [run["key"] for run in schedules.show("s")["slots"]] == [f"faq@2+{MEANING}", "faq@2"]


def test_while_a_job_is_not_over_grown_data_waits_and_is_not_forgotten(record, look, end, home):
    schedules.add("s", SPEC, when_data_changed=True)
    for digit in "bcd":
        version(record, digit)
        look()
    assert len(jobs(record)) == 1
    end()
    assert look() == 1
    assert versions_of(record, jobs(record)[-1].id) == [4]


def test_trouble_that_is_nobodys_fault_costs_no_run(record, look, pass_time, home, monkeypatch):
    path = write(home / "grows.jsonl", 1, 2)
    schedules.add("s", SPEC | {"dataset": str(path)}, every="1h")
    write(path, 1, 2, 3)
    pass_time(HOUR_S)

    def full(*_args, **_options):
        raise DiskFullError("no space is left.")

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "add", full)
        assert [look(), look()] == [0, 0]
        assert schedules.show("s")["last_error"] == "no space is left."
    assert look() == 1
    assert schedules.show("s")["last_error"] is None
    assert outcomes() == ["submitted"]


def test_a_file_that_somebody_reads_is_left_to_them(record, look, pass_time, home):
    import fcntl

    path = write(home / "grows.jsonl", 1, 2)
    made = schedules.add("s", SPEC | {"dataset": str(path)}, every="1h")
    pass_time(HOUR_S)
    assert due_schedules.run_schedule(record, get_settings(), "none of that name") == 0
    lock = home / "run" / f"schedule-{made['id']}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert look() == 0
    assert look() == 1


def test_what_vanished_fails_its_run_and_stops_nobody_else(record, look, pass_time, home):
    path = write(home / "gone.jsonl", 1, 2)
    schedules.add("a-broken", SPEC | {"dataset": str(path)}, every="1h")
    schedules.add("s", SPEC, every="1h")
    schedules.add("watching", SPEC | {"dataset": str(path)}, when_data_changed=True)
    path.unlink()
    pass_time(HOUR_S)
    assert look() == 1
    shown, watching = schedules.show("a-broken"), schedules.show("watching")
    assert (shown["slots"][0]["outcome"], shown["slots"][0]["status"]) == ("failed", "failed")
    for one in (shown, watching):
        assert "gone.jsonl can't be read" in one["last_error"]
    failed = next(job for job in jobs(record) if job.status is Status.FAILED)
    assert failed.error["code"] == "bad_data"
    assert watching["slots"] == []
    write(path, 1, 2)
    look()
    assert schedules.show("watching")["last_error"] is None
    pass_time(HOUR_S)
    look()
    assert schedules.show("a-broken")["last_error"] is None
    assert outcomes("a-broken") == ["failed", "submitted"]


def test_a_fault_of_our_own_is_told_and_stops_nobody_else(record, look, pass_time, monkeypatch):
    broken = schedules.add("a-broken", SPEC, every="1h")["id"]
    schedules.add("s", SPEC, every="1h")
    pass_time(HOUR_S)
    real = due_schedules.run_schedule

    def deal(database, settings, schedule_id):
        if schedule_id == broken:
            raise KeyError("oh")
        return real(database, settings, schedule_id)

    monkeypatch.setattr(due_schedules, "run_schedule", deal)
    assert look() == 1
    assert schedules.show("a-broken")["last_error"] == "KeyError: 'oh'"
    monkeypatch.setattr(due_schedules, "run_schedule", real)
    assert look() == 1
