"""The record's judgements, by tables of workers, queues and clocks."""

from datetime import UTC, datetime, timedelta

import pytest

from celora.doctor import record
from celora.models.database import Database
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.settings.settings import load_settings


@pytest.mark.parametrize(
    ("ahead_s", "doubt_s", "level", "words"),
    [
        (0.3, 0.01, "ok", "0.30 s"),
        (3.0, 2.5, "ok", "± 2.50"),
        (30, 0.1, "warn", "30 s behind"),
        (-3600, 0.1, "fail", "3600 s ahead of"),
    ],
)
def test_a_clock_is_judged_by_what_is_certain(ahead_s, doubt_s, level, words):
    found = record.skew(ahead_s, doubt_s)
    assert (found.level, words in found.found) == (level, True)


NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
BASE = {"status": "idle", "obstacle": None, "host": "here", "versions": {}, "registered_at": NOW - timedelta(days=1),
        "last_seen_at": NOW}  # fmt: skip
CONTROL = {**BASE, "id": "control@here", "kind": "control", "gpu_type": None, "queues": ["celora"]}
PREP = {**BASE, "id": "prep@here", "kind": "prep", "gpu_type": None, "queues": ["prep"]}
L4 = {**BASE, "id": "l4-0@here", "kind": "gpu", "gpu_type": "l4", "queues": ["gpu.l4", "gpu.auto"]}
ALL = [CONTROL, PREP, L4]


@pytest.fixture
def roll(home):
    """Makes the facts that the judges look at."""

    def make(workers=ALL, waiting=(), reaper_age_s=3.0, **settings):
        queues = [{"queue": name, "waiting": count} for name, count in dict(waiting).items()]
        made = load_settings(**settings)
        return record.Roll(settings=made, at=NOW, workers=list(workers), queues=queues, reaper_age_s=reaper_age_s)

    return make


def test_a_worker_is_silent_after_three_heartbeats_and_at_least_a_minute(roll):
    quiet = {**L4, "last_seen_at": NOW - timedelta(seconds=100)}
    assert roll([quiet], heartbeat_s=20).silent == ["l4-0@here"]
    assert roll([quiet], heartbeat_s=40).silent == []
    assert roll([{**quiet, "last_seen_at": NOW - timedelta(seconds=50)}], heartbeat_s=1).silent == []
    assert roll([{**quiet, "status": "offline"}]).silent == []
    assert [row["id"] for row in roll([CONTROL, quiet]).alive] == ["control@here"]


def test_a_job_in_the_foreground_is_no_worker(roll):
    assert roll([{**L4, "kind": "job"}]).online == []


SILENT = {**L4, "last_seen_at": NOW - timedelta(hours=1)}
CORDONED = {**L4, "obstacle": "cordoned: a fan is loud"}


@pytest.mark.parametrize(
    ("judge", "facts", "level", "words"),
    [
        (record.registered, {}, "ok", "3 online (1 control, 1 gpu, 1 prep)"),
        (record.registered, {"workers": []}, "warn", "none is online"),
        (record.registered, {"workers": [CONTROL, SILENT]}, "fail", "l4-0@here gave no sign of life"),
        (record.versions, {}, "ok", "everywhere"),
        (record.versions, {"workers": [{**L4, "versions": {"celora": "0.0.1"}}]}, "warn", "l4-0@here runs 0.0.1"),
        (record.libraries, {}, "ok", "the same libraries"),
        (
            record.libraries,
            {"workers": [{**L4, "versions": {"torch": "2.13.0"}}, {**L4, "id": "l4-1@here"}]},
            "warn",
            "torch 2.13.0 and none on l4",
        ),
        (
            record.libraries,
            {"workers": [{**L4, "versions": {"torch": "1"}}, {**L4, "id": "h", "gpu_type": "h100"}]},
            "ok",
            "the same libraries",
        ),
        (record.standing, {}, "ok", "every worker takes work"),
        (record.standing, {"workers": [CORDONED]}, "warn", "l4-0@here: cordoned: a fan is loud"),
        (record.queues, {}, "ok", "read: celora, gpu.auto, gpu.l4, prep"),
        (record.queues, {"workers": []}, "ok", "nothing waits"),
        (record.queues, {"workers": [], "waiting": {"prep": 2}}, "fail", "no worker reads prep"),
        (record.queues, {"workers": [PREP, L4]}, "fail", "no worker reads celora"),
        (record.queues, {"workers": [L4]}, "fail", "no worker reads celora and prep"),
        (record.queues, {"workers": [CONTROL, PREP]}, "warn", "no worker trains"),
        (record.queues, {"waiting": {"gpu.h100": 2}}, "warn", "2 wait for gpu.h100"),
        (record.queues, {"waiting": {"gpu.auto": 2}}, "ok", "read:"),
        (record.reaper, {}, "ok", "3 s ago"),
        (record.reaper, {"workers": [], "reaper_age_s": None}, "ok", "no worker is online"),
        (record.reaper, {"reaper_age_s": 61.0, "reaper_s": 15}, "fail", "61 s ago"),
        (record.reaper, {"reaper_age_s": 61.0, "reaper_s": 30}, "ok", "61 s ago"),
        (record.reaper, {"reaper_age_s": None}, "fail", "never looked"),
        (record.reaper, {"reaper_age_s": None, "workers": [{**L4, "registered_at": NOW}]}, "ok", "a moment ago"),
        (record.machines, {}, "ok", "here"),
        (record.machines, {"workers": []}, "ok", "no worker is online"),
        (record.machines, {"workers": [L4, {**PREP, "host": "there"}]}, "fail", "share a SQLite file"),
    ],
)
def test_workers_and_queues_are_judged(roll, judge, facts, level, words):
    found = judge(roll(**facts))
    assert (found.level, words in found.found) == (level, True), found
    assert bool(found.fix) == (level != "ok")


@pytest.mark.parametrize(("root", "level"), [("", "fail"), ("s3://bucket/celora", "ok")])
def test_several_machines_need_shared_artifacts(roll, root, level):
    url = "postgresql://celora:a-long-random-word@host/celora"
    found = record.machines(roll([L4, {**PREP, "host": "there"}], database_url=url, artifact_root=root))
    assert (found.level, "2 (here, there)" in found.found) == (level, True)


def test_a_record_that_is_not_there_is_not_made(home):
    (found,) = record.record(load_settings())
    assert (found.level, "celora migrate" in found.fix) == ("warn", True)
    (home / "celora.env").touch()
    (found,) = record.record(load_settings())
    assert (found.level, "is gone while an installation runs here" in found.found) == ("fail", True)
    assert not (home / "celora.db").exists()


def test_secrets_that_cannot_be_read_hide_no_other_finding(home):
    database = Database(load_settings().database)
    database.migrate()
    with database.transaction(Scope.everything) as session:
        spec = {"base_model": "b", "dataset": "/d.jsonl", "report_to": ["wandb"]}
        accept.submit(session, job_id="tracked", spec=parse_spec(spec))
    database.dispose()
    (home / "secrets.json").write_text("{")
    found = {finding.check: finding for finding in record.record(load_settings())}
    assert (found["record"].level, found["secrets.needed"].level) == ("ok", "fail")
    assert "secrets.json" in found["secrets.needed"].found
    assert {"workers", "queues", "reaper", "machines"} <= set(found)
