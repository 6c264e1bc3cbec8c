"""`celora queue`, `why` and `set`: for people and for programs."""

import pytest

from celora.cli.open_record import record
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job
from celora.services.queue import changes


@pytest.fixture
def waiting(monkeypatch):
    monkeypatch.setattr(changes, "request_tick", lambda: None)
    with record().transaction(Scope.everything) as session:
        for name in ("one", "two"):
            spec = parse_spec({"base_model": "b", "dataset": "/d.jsonl", "tenant": "acme"})
            accept.submit(session, job_id=name, spec=spec)


def test_the_queue_is_shown_and_explained(waiting, celora):
    shown = celora("queue")
    assert shown.exit_code == 0, shown.output
    assert "one" in shown.stdout
    assert [entry["position"] for entry in celora("queue", "--tenant", "acme", "--json").json()] == [1, 2]
    told = celora("why", "two").stdout
    assert "It is number 2; jobs ahead: 1 of acme." in told
    assert "priority" in told
    found = celora("why", "two", "--json").json()
    assert [step["rule"] for step in found["steps"]][:2] == ["limits", "slots"]


def test_a_job_is_changed_and_a_change_that_is_none_is_refused(waiting, celora):
    changed = celora("set", "two", "--priority", 3, "--labels", "fast,big", "--json")
    assert changed.json() == {"id": "two", "changed": {"priority": 3, "labels": ["big", "fast"]}}
    assert "priority 4 now" in celora("set", "two", "--priority", 4).stdout
    assert celora("set", "two").exit_code != 0
    assert celora("set", "two", "--class", "urgent").exit_code != 0
    assert "none now" in celora("set", "two", "--labels", "").stdout


def test_an_empty_queue_says_so(celora):
    assert "Nobody waits" in celora("queue").stdout


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"passed": [], "need_bytes": None}, "auto took h100 last, the cheapest (of h100, l4)."),
        (
            {"passed": ["l4"], "need_bytes": 2 << 30},
            "auto took h100 last; cheaper, but not free: l4 (of h100, l4 for the 2.0 GiB that the job needs).",
        ),
    ],
)
def test_what_auto_took_is_said_in_words(waiting, celora, chosen, words):
    with record().transaction(Scope.everything) as session:
        session.get_one(Job, "two").chosen = {"gpu_type": "h100", "fitting": ["h100", "l4"], **chosen}
    assert words in celora("why", "two").stdout.replace("\n", " ")
