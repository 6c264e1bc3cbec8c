"""The end of a job is announced by one process at a time, and again when somebody asks later."""

import pytest

from celora.models import queries
from celora.models.scope.scope import Scope


@pytest.fixture
def ended(record):
    record.new()
    record.request_cancel("job")
    return record


def waiting(record):
    with record.database.session(Scope.everything) as session:
        return queries.unannounced(session)


def test_an_end_waits_until_it_was_announced(ended):
    assert waiting(ended) == ["job"]
    assert ended.claim_announcement("job", 30)
    assert waiting(ended) == []
    ended.mark_announced("job")
    assert not ended.claim_announcement("job", 30)


def test_a_claim_that_ran_out_leaves_the_announcement_to_the_next(ended):
    assert ended.claim_announcement("job", -1)
    assert waiting(ended) == ["job"]
    assert ended.claim_announcement("job", 30)


def test_an_announcement_can_be_queued_again(ended):
    ended.claim_announcement("job", 30)
    ended.mark_announced("job")
    ended.queue_announcement("job")
    assert waiting(ended) == ["job"]


def test_a_job_that_has_not_ended_is_not_announced(record):
    record.new()
    assert not record.claim_announcement("job", 30)
