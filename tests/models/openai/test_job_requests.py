"""Rows beside jobs: repetition, labels as a filter, pages, on both databases."""

from datetime import timedelta

import pytest
from records import SPEC

from celora.errors import RequestError
from celora.models.jobs import accept
from celora.models.openai import job_requests
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Status
from celora.models.tables import IdempotencyKey, Job, JobRequest


@pytest.fixture
def session(database):
    with database.transaction(Scope.everything) as session:
        yield session


def submit(session, job_id, tenant="acme", **labels):
    spec = parse_spec({**SPEC, "tenant": tenant, "metadata": labels})
    job, _ = accept.submit(session, job_id=job_id, spec=spec)
    return job


def ids(session, labels, tenant="acme", **options):
    given = {"after": None, "limit": 10, **options}
    rows, more = job_requests.page(session, tenant, labels=labels, **given)
    return sorted(job.id for job in rows), more


def test_jobs_are_found_by_their_labels(session):
    submit(session, "a", team="blue", run="1")
    submit(session, "b", team="blue")
    submit(session, "c")
    submit(session, "x", tenant="other", team="blue")
    assert ids(session, {}) == (["a", "b", "c"], False)
    assert ids(session, {"team": "blue"}) == (["a", "b"], False)
    assert ids(session, {"team": "blue", "run": "1"}) == (["a"], False)
    assert ids(session, {"team": ""}) == ([], False)
    assert ids(session, None) == (["c"], False)
    assert ids(session, {}, status=Status.FAILED) == ([], False)


def test_pages_follow_each_other(session):
    for number in range(5):
        submit(session, f"job-{number}").created_at += timedelta(seconds=number // 2)
    session.flush()
    first, more = job_requests.page(session, "acme", after=None, limit=3, labels={})
    assert ([job.id for job in first], more) == (["job-4", "job-3", "job-2"], True)
    rest, more = job_requests.page(session, "acme", after="job-2", limit=3, labels={})
    assert ([job.id for job in rest], more) == (["job-1", "job-0"], False)


def test_a_cursor_and_an_id_of_another_tenant_are_not_there(session):
    submit(session, "x", tenant="other")
    with pytest.raises(RequestError, match="after"):
        ids(session, {}, after="x")
    with pytest.raises(RequestError, match="no job"):
        job_requests.find_job(session, "acme", "x")
    assert job_requests.find_job(session, "other", "x").id == "x"


def test_a_key_remembers_its_request_for_a_day(session):
    submit(session, "a")
    job_requests.remember_key(session, "acme", "k", "1" * 64, "a")
    assert job_requests.of_key(session, "acme", "k", "1" * 64) == "a"
    assert job_requests.of_key(session, "other", "k", "1" * 64) is None
    with pytest.raises(RequestError) as caught:
        job_requests.of_key(session, "acme", "k", "2" * 64)
    assert (caught.value.status, caught.value.reason) == (409, "idempotency_conflict")
    session.get_one(IdempotencyKey, ("acme", "k")).created_at -= timedelta(days=2)
    session.flush()
    assert job_requests.of_key(session, "acme", "k", "2" * 64) is None


def test_an_equal_request_is_known_for_a_while(session):
    job = submit(session, "a")
    row = JobRequest(job_id="a", tenant="acme", model="m", named="m", training_file="f", method="supervised",
                     hyperparameters={}, body_sha256="1" * 64, created_at=job.created_at)  # fmt: skip
    session.add(row)
    session.flush()
    assert job_requests.repeated(session, "acme", "1" * 64) == "a"
    assert job_requests.repeated(session, "other", "1" * 64) is None
    assert list(job_requests.of_jobs(session, ["a", "b"])) == ["a"]
    row.created_at -= timedelta(hours=1)
    session.flush()
    assert job_requests.repeated(session, "acme", "1" * 64) is None
    assert session.get(Job, "a") is not None
