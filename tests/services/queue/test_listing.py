"""The queue as people see it: who waits, in which order, from when to when, and why."""

import pytest

from celora.errors import NotFoundError
from celora.models.jobs import requests
from celora.models.scope.scope import Scope
from celora.services.queue import listing
from celora.services.queue.listing import OTHERS, list_queue, place_of


def test_the_next_to_start_comes_first_and_the_paused_last(here):
    here.worker()
    for number, name in enumerate(("first", "second", "third", "paused")):
        here.job(name)
        here.older(name, 50 - number)
    with here.database.transaction(Scope.everything) as session:
        requests.request_pause(session, "paused")
    assert here.round() == 1
    assert here.round() == 0  # the first one ended where the jobs that it had read were used up
    entries = list_queue()
    assert [(entry.id, entry.position) for entry in entries] == [("second", 1), ("third", 2), ("paused", None)]
    second, third, paused = entries
    assert second.ahead == {}
    assert third.ahead == {"default": 1}
    assert (second.code, paused.code) == ("busy", "paused")
    assert "slots are taken" in second.reason
    assert second.earliest_at < second.latest_at < third.latest_at
    assert paused.earliest_at is None
    assert second.plain()["labels"] == []


def test_a_job_without_a_worker_has_a_place_and_no_time(here):
    here.job("one")
    here.round()
    (entry,) = list_queue()
    assert (entry.position, entry.earliest_at, entry.latest_at, entry.code) == (1, None, None, "no_worker")


def test_a_tenant_sees_its_own_jobs_and_the_others_as_one(here):
    here.worker()
    for tenant in ("acme", "rival", "third"):
        here.job(f"of-{tenant}", tenant=tenant)
        here.older(f"of-{tenant}", 0 if tenant == "acme" else 9)
    (entry,) = list_queue(scope=Scope.of("acme"))
    assert (entry.id, entry.position, entry.ahead) == ("of-acme", 3, {OTHERS: 2})
    assert "rival" not in str(entry)
    with pytest.raises(NotFoundError):
        place_of("of-rival", scope=Scope.of("acme"))
    assert place_of("of-acme", scope=Scope.of("acme")).ahead == {OTHERS: 2}
    assert place_of("of-acme").ahead == {"rival": 1, "third": 1}


def test_a_job_that_does_not_wait_has_no_place(here):
    here.worker()
    here.job("one")
    here.round()
    assert place_of("one") is None


def test_the_limit_bounds_what_is_listed(here):
    here.worker()
    for number in range(4):
        here.job(f"job-{number}")
    assert [entry.position for entry in list_queue(limit=2)] == [1, 2]


def test_the_first_of_a_long_queue_are_those_of_a_short_one(here, monkeypatch):
    here.worker()
    for number in range(6):
        here.job(f"job-{number}", priority=number % 2, tenant="ab"[number % 2])
        here.older(f"job-{number}", 30 - number)
    short = [(entry.id, entry.position) for entry in list_queue(limit=3)]
    monkeypatch.setattr(listing, "all_heads", lambda *_: None)
    monkeypatch.setattr("celora.services.queue.line.all_heads", lambda *_: None)
    assert [(entry.id, entry.position) for entry in list_queue(limit=3)] == short
    last = place_of("job-0")
    monkeypatch.undo()
    assert last.position >= 1
