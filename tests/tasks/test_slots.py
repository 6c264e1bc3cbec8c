"""Schedules in the record: slots get their jobs once, whoever looks; overlaps, missed slots, growing data, faults."""

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from celora.models import transitions
from celora.models.database import get_database
from celora.models.registry import register_dataset
from celora.models.schedule_tables import Schedule, Slot
from celora.models.states import Stage, Status
from celora.models.tables import Job
from celora.settings.errors import DataError, DiskFullError, NotFoundError, SettingsError
from celora.settings.settings import get_settings
from celora.tasks import datasets, schedules, slots

HOUR_S = 3601
"""An hour and a second, so that no two slots of a test bear the same time."""

SPEC = {"base_model": "smollm2-135m-instruct", "dataset": "faq"}


def write(path, *numbers):
    path.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) + "\n" for n in numbers))
    return path


@pytest.fixture
def record(database, home, monkeypatch):
    """An installation without workers or broker, on either database, with a version of a dataset ``faq``."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    monkeypatch.setattr(schedules, "poke", lambda: None)
    version(database, "a")
    return get_database()


def version(record, digit, tenant="default"):
    """Adds a version of ``faq`` that nobody will read."""
    uri = f"{get_settings().artifacts}/datasets/{digit}/data.jsonl"
    with record.transaction() as session:
        register_dataset(session, tenant=tenant, name="faq", sha256=digit * 64, uri=uri, size_bytes=1)


@pytest.fixture
def look(record):
    """One round of the task, as a control worker would run it; how many jobs it submitted."""
    return lambda: slots.look_at_all(record, get_settings())


@pytest.fixture
def pass_time(record):
    """Moves every schedule's clock so many seconds into the past."""

    def moved(seconds):
        back = timedelta(seconds=seconds)
        with record.transaction() as session:
            for schedule in session.scalars(select(Schedule)):
                for name in ("created_at", "last_slot", "next_slot"):
                    before = getattr(schedule, name)
                    setattr(schedule, name, before - back if before else None)

    return moved


@pytest.fixture
def patient(monkeypatch):
    """No slot is ever late."""
    monkeypatch.setenv("CELORA_LATE_S", "1e9")
    get_settings.cache_clear()


@pytest.fixture
def end(record):
    """Ends every job that is not over, as if it had been trained."""

    def ended():
        with record.transaction() as session:
            session.execute(update(Job).where(Job.status != Status.FAILED).values(status=Status.COMPLETED))

    return ended


def jobs(record):
    with record.session() as session:
        return list(session.scalars(select(Job).order_by(Job.created_at, Job.id)))


def outcomes(name="s"):
    return [row["outcome"] for row in reversed(schedules.show(name)["slots"])]


def test_a_slot_that_is_due_becomes_a_job_and_is_due_once(record, look, pass_time):
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


def together(count, work):
    """Runs the work on several threads that begin at the same moment."""
    barrier, errors = threading.Barrier(count), []

    def run():
        barrier.wait()
        try:
            work()
        except Exception as error:  # noqa: BLE001  (a thread's error is the test's)
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_of_many_that_look_at_once_one_gives_the_slot_its_job(record, patient, look, pass_time):
    for name in ("s", "t"):
        schedules.add(name, SPEC, every="1h", overlap="queue")
    pass_time(4.2 * 3600)
    together(6, look)
    with record.session() as session:
        assert session.scalar(select(func.count()).select_from(Slot)) == 8
    assert len(jobs(record)) == 2
    assert [outcomes(name) for name in ("s", "t")] == [["submitted", "waiting", "waiting", "waiting"]] * 2


def test_slots_that_wait_are_trained_in_order_each_once(record, patient, look, pass_time, end):
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


PROGRAM = (
    "from celora.models.database import get_database; from celora.settings.settings import get_settings;"
    "from celora.tasks.slots import look_at_all; from celora.settings.failpoints import hit;"
    "look_at_all(get_database(), get_settings()) and hit('slots.committed')"
)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "left"), [("slots.written", 0), ("slots.committed", 1)])
def test_one_that_is_killed_leaves_a_slot_whole_or_untouched(record, look, pass_time, point, left):
    schedules.add("s", SPEC, every="1h")
    pass_time(HOUR_S)
    environment = {**os.environ, "CELORA_FAILPOINT": f"{point}:kill"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, timeout=60, check=False)
    assert done.returncode == -9
    assert (len(jobs(record)), len(outcomes())) == (left, left)
    look()
    assert (len(jobs(record)), len(outcomes())) == (1, 1)


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
    with record.transaction() as session:
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


def test_missed_slots_run_once_or_are_skipped(record, look, pass_time):
    schedules.add("once", SPEC, every="1h")
    schedules.add("never", SPEC, every="1h", missed="skip")
    pass_time(9.5 * 3600)
    assert look() == 1
    (once,), (never,) = schedules.show("once")["slots"], schedules.show("never")["slots"]
    assert (once["outcome"], never["outcome"]) == ("submitted", "missed")
    assert "9 slots were missed" in once["message"]
    assert "9 slots were missed" in never["message"]
    pass_time(0.5 * 3600)
    look()
    assert outcomes("never") == ["missed", "submitted"]


def test_a_job_trains_on_the_version_of_its_slot(record, look, pass_time, end, home):
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


def versions_of(record, job_id):
    from celora.models import datasets as record_of

    with record.session() as session:
        return [row["version"] for row in record_of.seen_by(session, job_id).values()]


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


def test_while_a_job_is_not_over_grown_data_waits_and_is_not_forgotten(record, look, end, home):
    schedules.add("s", SPEC, when_data_changed=True)
    for digit in "bcd":
        version(record, digit)
        look()
    assert len(jobs(record)) == 1
    end()
    assert look() == 1
    assert versions_of(record, jobs(record)[-1].id) == [4]


def test_so_many_new_rows_are_counted_since_the_last_slot(record, look, end, home):
    datasets.add(write(home / "rows.jsonl", 1, 2), name="rows")
    schedules.add("s", SPEC | {"dataset": "rows"}, when_new_rows=3)
    for rows, expected in (((1, 2, 3, 4), 0), ((9, 8, 7), 1), ((9, 8, 7, 1, 2), 0), ((9, 8, 7, 1, 2, 3), 1)):
        datasets.add(write(home / "rows.jsonl", *rows), name="rows")
        assert look() == expected
        end()
    assert schedules.show("s")["seen"]["reference"] == "rows@5"


def test_a_file_is_read_again_when_it_changed_and_only_then(record, look, end, home, monkeypatch):
    path = write(home / "grows.jsonl", 1, 2)
    schedules.add("s", SPEC | {"dataset": str(path)}, when_new_rows=2)
    read = []
    real = datasets.add
    monkeypatch.setattr(datasets, "add", lambda *args, **options: read.append(args) or real(*args, **options))
    look()
    os.utime(path)
    look()
    assert len(read) == 1
    write(path, 1, 2, 3, 4)
    assert [look(), look()] == [1, 0]
    assert len(read) == 2
    assert jobs(record)[0].spec["dataset"].startswith(get_settings().artifacts)


def test_a_file_goes_with_a_clock_too(record, look, pass_time, end, home):
    path = write(home / "grows.jsonl", 1, 2)
    schedules.add("s", SPEC | {"dataset": str(path)}, every="1h")
    for rows in ((1, 2), (1, 2, 3)):
        write(path, *rows)
        pass_time(HOUR_S)
        look()
        end()
    assert [versions_of(record, job.id) for job in jobs(record)] == [[1], [2]]


def test_a_file_that_grows_while_it_is_read_is_trained_as_it_was(record, look, pass_time, home, monkeypatch):
    path = write(home / "grows.jsonl", 1, 2)
    schedules.add("s", SPEC | {"dataset": str(path)}, every="1h")
    real = datasets.run_once

    def growing(request, *args, **options):
        write(path, 1, 2, 3, 4, 5)
        return real(request, *args, **options)

    monkeypatch.setattr(datasets, "run_once", growing)
    write(path, 1, 2, 3)
    pass_time(HOUR_S)
    assert look() == 1
    uri = jobs(record)[0].spec["dataset"].removeprefix("file://")
    assert Path(uri).read_text().count("\n") == 3


def test_trouble_that_is_nobodys_fault_costs_no_slot(record, look, pass_time, home, monkeypatch):
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
    assert slots.deal(record, get_settings(), "none of that name") == 0
    lock = home / "run" / f"schedule-{made['id']}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert look() == 0
    assert look() == 1


def test_what_vanished_fails_its_slot_and_stops_nobody_else(record, look, pass_time, home):
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


def test_a_spec_that_is_refused_by_now_fails_its_slot(record, look, pass_time, monkeypatch):
    schedules.add("s", SPEC, every="1h")
    pass_time(HOUR_S)
    strict = get_settings().model_copy(update={"allowed_bases": ["other*"]})
    assert slots.look_at_all(record, strict) == 0
    assert "is not allowed on this installation" in schedules.show("s")["last_error"]
    assert outcomes() == ["failed"]


def test_a_fault_of_our_own_is_told_and_stops_nobody_else(record, look, pass_time, monkeypatch):
    broken = schedules.add("a-broken", SPEC, every="1h")["id"]
    schedules.add("s", SPEC, every="1h")
    pass_time(HOUR_S)
    real = slots.deal

    def deal(database, settings, schedule_id):
        if schedule_id == broken:
            raise KeyError("oh")
        return real(database, settings, schedule_id)

    monkeypatch.setattr(slots, "deal", deal)
    assert look() == 1
    assert schedules.show("a-broken")["last_error"] == "KeyError: 'oh'"
    monkeypatch.setattr(slots, "deal", real)
    assert look() == 1


def test_a_paused_schedule_gets_nothing_and_goes_on_from_its_resumption(record, look, pass_time):
    schedules.add("s", SPEC, every="1h")
    schedules.pause("s")
    pass_time(5 * 3600)
    assert look() == 0
    assert schedules.show("s")["upcoming"] == []
    schedules.resume("s")
    assert look() == 0
    pass_time(HOUR_S)
    assert look() == 1


def test_run_now_is_a_slot_of_its_own_behind_the_job_that_is_not_over(record, look, pass_time, end):
    schedules.add("s", SPEC, every="1h")
    first = schedules.run_now("s")
    assert first["outcome"] == "submitted"
    second = schedules.run_now("s")
    assert (second["outcome"], second["job_id"]) == ("waiting", None)
    assert f"behind job {first['job_id']}" in second["message"]
    end()
    assert look() == 1
    pass_time(HOUR_S)
    look()
    assert outcomes() == ["submitted", "submitted", "skipped"]


def test_a_schedule_that_is_removed_leaves_its_jobs_and_a_new_one_begins_afresh(record, look, pass_time):
    schedules.add("s", SPEC, every="1h")
    schedules.run_now("s")
    schedules.remove("s")
    with pytest.raises(NotFoundError, match="no schedule s"):
        schedules.show("s")
    schedules.add("s", SPEC, every="1h")
    assert schedules.show("s")["slots"] == []
    assert len(jobs(record)) == 1


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({}, SettingsError, "one way to be due, not nothing"),
        ({"every": "1h", "cron": "0 3 * * 1"}, SettingsError, "not cron and every"),
        ({"cron": "0 3 31 2 *"}, SettingsError, "never fires"),
        ({"cron": "0 3 * * 1", "timezone": "Europe/Berln"}, SettingsError, "did you mean Europe/Berlin"),
        ({"every": "1h", "timezone": "Europe/Berlin"}, SettingsError, "only a cron line"),
        ({"every": "soon"}, SettingsError, "no interval"),
        ({"when_new_rows": 0}, SettingsError, "1 or more"),
        ({"every": "1h", "overlap": "qeue"}, SettingsError, "did you mean queue"),
        ({"every": "1h", "missed": "run_twice"}, SettingsError, "missed: 'run_twice' is none of"),
        ({"every": "1h", "rank": 0}, SettingsError, "rank"),
        ({"every": "1h", "dataset": "fag"}, NotFoundError, "did you mean faq"),
        ({"every": "1h", "dataset": "/nowhere.jsonl"}, DataError, "nowhere.jsonl can't be read"),
        ({"when_data_changed": True, "dataset": "faq@1"}, SettingsError, "can't be watched"),
        ({"every": "1h", "gpu": "t9"}, SettingsError, "no GPU type"),
        ({"every": "1h", "champion": "support-bot"}, SettingsError, "needs rows to be compared on"),
    ],
)
def test_what_could_not_be_trained_is_refused_when_it_is_added(record, options, kind, reason):
    when = {"cron", "timezone", "every", "when_new_rows", "when_data_changed", "missed", "overlap"}
    spec = SPEC | {name: value for name, value in options.items() if name not in when}
    with pytest.raises(kind, match=reason):
        schedules.add("s", spec, **{name: value for name, value in options.items() if name in when})
    assert schedules.listed() == []


def test_a_name_is_taken_once_for_each_tenant(record, home):
    schedules.add("s", SPEC, every="1h")
    with pytest.raises(SettingsError, match="a schedule s already"):
        schedules.add("s", SPEC, every="1h")
    with pytest.raises(SettingsError, match="cannot be a schedule's name"):
        schedules.add("a b", SPEC, every="1h")
    version(record, "a", tenant="acme")
    schedules.add("s", SPEC | {"tenant": "acme"}, every="1h")
    with pytest.raises(NotFoundError, match="no schedule s"):
        schedules.pause("s", tenant="nobody")
    assert [row["tenant"] for row in schedules.listed()] == ["acme", "default"]
    assert [row["tenant"] for row in schedules.listed("acme")] == ["acme"]


def test_rows_to_measure_on_that_are_a_file_are_fixed_when_it_is_added(record, look, pass_time, home):
    held_out = write(home / "held.jsonl", 7, 8)
    schedules.add("s", SPEC | {"eval_dataset": str(held_out)}, every="1h")
    held_out.unlink()
    pass_time(HOUR_S)
    assert look() == 1
    assert schedules.show("s")["spec"]["eval_dataset"] == "held@1"
