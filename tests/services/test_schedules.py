"""Schedules are added, shown, paused, run at once and removed; a spec that could not be trained is refused."""

import pytest
from recurring import HOUR_S, SPEC, jobs, outcomes, version, write

from celora.errors import DataError, NotFoundError, SettingsError
from celora.services import schedules

pytestmark = pytest.mark.usefixtures("index_here")


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


def test_run_now_is_a_run_of_its_own_behind_the_job_that_is_not_over(record, look, pass_time, end):
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
