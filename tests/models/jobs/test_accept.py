"""A job is written once, with its request; one whose spec is refused is a failed row."""

import pytest

from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Announcement, Event

SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": "acme", "user": "ada"}
ERROR = {"code": "bad_settings", "message": "rank: no number"}


def history(record):
    with record.database.session(Scope.everything) as session:
        return [(event.level, event.kind, event.message) for event in session.query(Event).order_by(Event.id)]


def announced(record):
    with record.database.session(Scope.everything) as session:
        return [row.job_id for row in session.query(Announcement)]


def test_a_job_is_written_once_however_often_it_is_submitted(record):
    first, new = record.submit(job_id="job", spec=parse_spec(SPEC))
    again, known = record.submit(job_id="job", spec=parse_spec(SPEC | {"rank": 4}))
    assert (new, known) == (True, False)
    assert (first.status, first.stage, first.tenant, first.warnings) == (Status.PENDING, Stage.PREPARE, "acme", [])
    assert again.spec == first.spec
    assert history(record) == [("info", "submitted", "submitted by ada")]


def test_a_seed_that_was_left_open_is_the_same_for_the_same_id(record):
    seeds = {name: record.submit(job_id=name, spec=parse_spec(SPEC))[0].spec["seed"] for name in ("one", "two")}
    assert seeds["one"] != seeds["two"]
    assert seeds["one"] == accept._seed("one")
    assert record.submit(job_id="three", spec=parse_spec(SPEC | {"seed": 7}))[0].spec["seed"] == 7


def test_a_request_is_attached_to_a_row_without_one_and_never_replaced(record):
    record.submit(job_id="job", spec=parse_spec(SPEC))
    record.submit(job_id="job", spec=parse_spec(SPEC), request={"id": "first"})
    record.submit(job_id="job", spec=parse_spec(SPEC), request={"id": "second"})
    assert record.job().request == {"id": "first"}
    assert announced(record) == []


def test_a_request_that_comes_after_the_end_is_answered(record):
    record.submit(job_id="job", spec=parse_spec(SPEC))
    record.request_cancel("job")
    record.claim_announcement("job", 30)
    record.mark_announced("job")
    record.submit(job_id="job", spec=parse_spec(SPEC), request={"id": "late"})
    assert record.claim_announcement("job", 30)


def test_a_refused_spec_is_a_failed_row_that_says_why(record):
    job = record.reject("job", {"rank": "x", "user": "u" * 300, "gpu": "g" * 99}, ERROR)
    assert (job.status, job.error, job.tenant) == (Status.FAILED, ERROR, "default")
    assert (len(job.user), len(job.gpu), job.finished_at) == (200, 32, job.created_at)
    assert history(record) == [("error", "rejected", "rank: no number")]
    assert announced(record) == []


def test_a_refusal_with_a_request_is_announced(record):
    record.reject("job", {}, ERROR, {"id": "job"})
    assert announced(record) == ["job"]


def test_a_refusal_leaves_a_known_job_as_it_is(record):
    record.submit(job_id="job", spec=parse_spec(SPEC))
    assert record.reject("job", {}, ERROR).status is Status.PENDING


@pytest.mark.parametrize("tenant", ["", "t" * 65, "a\nb", "a/b", "a\0b", "\u202eevil", "..", "a b", 7, None])
def test_a_tenant_that_is_none_becomes_the_default(record, tenant):
    assert record.reject("job", {"tenant": tenant}, ERROR).tenant == "default"
