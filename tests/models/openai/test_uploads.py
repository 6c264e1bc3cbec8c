"""The rows of uploads: parts within the announced size, one joining at a time, an end for each upload."""

from datetime import timedelta

import pytest

from celora.errors import RequestError
from celora.models.database import now
from celora.models.openai import uploads
from celora.models.scope.scope import Scope
from celora.models.tables import Upload

FACTS = {"filename": "rows.jsonl", "purpose": "fine-tune", "size_bytes": 6, "file_expires_s": None}


@pytest.fixture
def session(database):
    with database.transaction(Scope.of("acme")) as session:
        uploads.add_upload(session, upload_id="u", tenant="acme", facts=FACTS)
        yield session


def add(session, part_id, size_bytes):
    uploads.add_part(session, "acme", "u", {"id": part_id, "size_bytes": size_bytes, "uri": f"file:///{part_id}"})


def refused(call, *arguments):
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    return caught.value.status, caught.value.param


def test_parts_come_in_any_order_and_are_returned_in_that_of_their_ids(session):
    add(session, "a", 2)
    add(session, "b", 4)
    assert refused(add, session, "c", 1) == (400, "data")
    assert [part.id for part in uploads.parts_of(session, "acme", "u", ["b", "a"])] == ["b", "a"]
    for wrong in (["a"], ["a", "b", "c"], ["a", "b", "b"]):
        assert refused(uploads.parts_of, session, "acme", "u", wrong) == (400, "part_ids")


def test_one_request_joins_at_a_time_until_its_claim_lapses(session):
    uploads.claim_joining(session, "acme", "u", 60)
    assert refused(uploads.claim_joining, session, "acme", "u", 60) == (409, None)
    uploads.end_upload(session, "acme", "u", uploads.PENDING)
    uploads.claim_joining(session, "acme", "u", -1)
    uploads.claim_joining(session, "acme", "u", 60)


def test_an_upload_that_has_ended_takes_nothing(session):
    uploads.end_upload(session, "acme", "u", uploads.CANCELLED)
    assert refused(add, session, "a", 1) == (400, None)
    assert refused(uploads.find_pending, session, "acme", "none") == (404, None)


def test_one_whose_time_has_passed_is_expired_and_forgotten_a_day_later(database, session):
    add(session, "a", 2)
    session.get_one(Upload, "u").expires_at = now(session) - timedelta(seconds=5)
    assert uploads.find_upload(session, "acme", "u").status == uploads.EXPIRED
    session.commit()
    with database.transaction(Scope.everything) as everything:
        assert uploads.expire_uploads(everything) == ["file:///a"]
        assert uploads.expire_uploads(everything) == []
        everything.get_one(Upload, "u").expires_at -= timedelta(days=2)
        everything.flush()
        uploads.expire_uploads(everything)
        assert everything.get(Upload, "u") is None
