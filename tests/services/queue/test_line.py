"""The line of one moment: exact for a short queue, counted for a long one, the same either way."""

import pytest

from celora.models.database import now
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job, MeasuredRun
from celora.services.queue import line
from celora.services.queue.line import read_line
from celora.services.queue.listing import heads_of
from celora.settings.settings import get_settings


def place(here, job_id):
    with here.database.session(Scope.everything) as session:
        return read_line(session, get_settings(), heads_of(session, [job_id])).place(job_id)


@pytest.fixture
def seven(here):
    """Two slots, two tenants, priorities, and one job that has aged."""
    here.worker()
    here.worker("h100-1@h")
    for number in range(7):
        here.job(f"job-{number}", tenant="ab"[number % 2], priority=number % 3, seconds=60.0)
        here.older(f"job-{number}", 40 - number)
    here.older("job-6", 60 * 48)
    return here


def test_a_counted_queue_gives_the_places_of_an_exact_one(seven, monkeypatch):
    names = [f"job-{number}" for number in range(7)]
    exact = {name: place(seven, name) for name in names}
    assert sorted(each.position for each in exact.values()) == list(range(1, 8))
    monkeypatch.setattr(line, "all_heads", lambda *_: None)
    counted = {name: place(seven, name) for name in names}
    assert {name: each.position for name, each in counted.items()} == {
        name: each.position for name, each in exact.items()
    }
    assert all(each.earliest_at and each.latest_at for each in counted.values())


def test_the_range_is_that_in_which_the_last_jobs_ended(here):
    here.worker()
    for number in range(3):
        here.job(f"job-{number}", seconds=1000.0)
    here.round()
    wide = place(here, "job-2")
    with here.database.transaction(Scope.everything) as session:
        for number in range(12):
            job_id = f"ended-{number}"
            accept.submit(session, job_id=job_id, spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
            session.get_one(Job, job_id).limited = {"code": "budget"}
            session.add(MeasuredRun(job_id=job_id, family="f", gpu_type="h100", length_tokens=1, formula_s=10.0,
                                    expected_s=10.0, took_s=9.0 + number * 0.2, at=now(session)))  # fmt: skip
    narrow = place(here, "job-2")
    assert (wide.latest_at - wide.earliest_at).total_seconds() == pytest.approx(1.5 * 2000, rel=0.1)
    assert (narrow.latest_at - narrow.earliest_at).total_seconds() == pytest.approx(0.18 * 2000, rel=0.1)


def test_a_job_that_waits_for_no_slot_has_no_place(here):
    here.worker()
    here.job("one")
    here.round()
    assert place(here, "one") is None


def test_a_job_behind_one_that_never_ends_is_expected_in_a_hundred_years(here):
    here.worker()
    for number in range(2):
        here.job(f"job-{number}", seconds=1e19)
    here.round()
    found = place(here, "job-1")
    assert found.earliest_at == found.latest_at
    assert found.latest_at.year > 2100
