"""Rows of files: pages in both directions, claims of checks, deletion and expiry, on both databases."""

from datetime import timedelta

import pytest
from records import SPEC

from celora.errors import RequestError
from celora.models import datasets
from celora.models.database import now
from celora.models.jobs import accept
from celora.models.openai import files
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import File

FACTS = {"filename": "a.jsonl", "purpose": "fine-tune", "size_bytes": 1, "sha256": "0" * 64, "uri": "file:///d"}


@pytest.fixture
def session(database):
    with database.transaction(Scope.everything) as session:
        yield session


def add(session, file_id, tenant="acme", **options):
    facts = {**FACTS, **options.pop("facts", {})}
    return files.add(session, file_id=file_id, tenant=tenant, facts=facts, **options)


def ids(session, **options):
    given = {"after": None, "limit": 10, "order": "desc", "purpose": None, **options}
    rows, more = files.page(session, "acme", **given)
    return [row.id for row in rows], more


def test_pages_follow_each_other_in_both_directions(session):
    for number in range(5):
        add(session, f"file-{number}").created_at += timedelta(seconds=number // 2)  # some share a time
    add(session, "file-x", tenant="other")
    session.flush()
    assert ids(session, limit=2) == (["file-4", "file-3"], True)
    assert ids(session, limit=2, after="file-3") == (["file-2", "file-1"], True)
    assert ids(session, limit=2, after="file-1") == (["file-0"], False)
    assert ids(session, limit=3, order="asc") == (["file-0", "file-1", "file-2"], True)
    assert ids(session, limit=3, order="asc", after="file-2") == (["file-3", "file-4"], False)
    assert ids(session, purpose="fine-tune-results") == ([], False)


@pytest.mark.parametrize("cursor", ["nothing", "file-x"])
def test_a_cursor_of_nobody_or_of_another_tenant_is_refused(session, cursor):
    add(session, "file-x", tenant="other")
    with pytest.raises(RequestError) as caught:
        ids(session, after=cursor)
    assert (caught.value.reason, caught.value.param) == ("invalid_cursor", "after")


def test_a_file_of_another_tenant_is_not_there(session):
    add(session, "file-x", tenant="other")
    with pytest.raises(RequestError) as caught:
        files.find(session, "acme", "file-x")
    assert (caught.value.status, caught.value.reason) == (404, "file_not_found")


def test_a_deleted_and_an_expired_file_do_not_appear(session):
    add(session, "file-1")
    add(session, "file-2", expires_after_s=3600).expires_at = now(session) - timedelta(seconds=1)
    files.delete(session, "acme", "file-1")
    assert ids(session) == ([], False)
    assert files.expire(session) == 1
    assert session.get_one(File, "file-2").deleted_at is not None


def test_a_check_is_claimed_once_and_again_after_its_time(session):
    add(session, "file-1")
    assert files.claim_check(session, "file-1", 60).checks == 1
    assert files.claim_check(session, "file-1", 60) is None
    session.get_one(File, "file-1").checked_until = now(session) - timedelta(seconds=1)
    session.flush()
    assert files.claim_check(session, "file-1", 60).checks == 2
    files.end_check(session, "file-1", rows=None, fault="line 3")
    files.end_check(session, "file-1", rows=7, fault=None)  # the first end counts
    row = session.get_one(File, "file-1")
    assert (row.status, row.status_details, row.rows) == ("error", "line 3", None)
    assert files.claim_check(session, "file-1", 60) is None


def test_a_check_whose_message_was_lost_is_asked_for_once_in_a_while(session):
    add(session, "file-1")
    assert files.unchecked(session, 600) == []
    session.get_one(File, "file-1").check_sent_at -= timedelta(seconds=601)
    session.flush()
    assert files.unchecked(session, 600) == ["file-1"]
    assert files.unchecked(session, 600) == []


def test_a_content_may_go_when_nothing_needs_it(session):
    add(session, "file-1")
    add(session, "file-2", tenant="other")
    files.delete(session, "acme", "file-1")
    later = now(session) + timedelta(seconds=60)
    assert files.removable(session, later) == ["file:///d"]
    assert not files.forget(session, "file:///d")  # the other tenant has it
    files.delete(session, "other", "file-2")
    datasets.register(session, tenant="acme", name="rows", sha256="0" * 64, uri="file:///d", size_bytes=1)
    assert not files.forget(session, "file:///d")  # a version of a dataset has it
    assert files.forget(session, "file:///other")


@pytest.mark.parametrize("spec", [{"dataset": "file:///d"}, {"eval_dataset": {"fixed": "file:///d"}}])
def test_an_unfinished_job_needs_its_content(session, spec):
    assert not files.needed_by_job(session, "file:///d")
    accept.submit(session, job_id="job", spec=parse_spec({**SPEC, **spec}))
    assert files.needed_by_job(session, "file:///d")
    assert not files.needed_by_job(session, "file:///else")
