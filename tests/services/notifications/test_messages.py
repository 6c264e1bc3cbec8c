"""Messages: OpenAI's event for a webhook; cause and remedy for people, in the tenant's words."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from two_tenants import AT, new_job

from celora.models.notifications.notices import Notice
from celora.models.scope.scope import Scope
from celora.models.tables import Delivery, Receiver, Tenant
from celora.services.notifications.messages import EVENT_TYPES, NOTICES, duration, event_of, message_of

ERROR = {
    "code": "bad_data",
    "message": "the file /srv/data/rows.jsonl has no JSON in line 2.",
    "hint": "Mend that line. Or let an operator raise CELORA_PREPARE_FILE_BYTES.",
}


def test_an_event_has_openais_form():
    at = datetime(2026, 11, 30, tzinfo=UTC)
    assert json.loads(event_of("evt_1", Notice.DONE, "ftjob-1", at)) == {
        "id": "evt_1", "object": "event", "created_at": int(at.timestamp()), "type": "fine_tuning.job.succeeded",
        "data": {"id": "ftjob-1"},
    }  # fmt: skip
    assert {NOTICES[kind] for kind in EVENT_TYPES.values()} == {Notice.DONE, Notice.FAILED, Notice.CANCELLED}


@pytest.fixture
def write(record):
    """The message about a job, or about something else."""

    def make(notice, tenant="team-a", facts=None, subject="job-1", **columns):
        with record.transaction(Scope.everything) as session:
            session.merge(Tenant(name=tenant, created_at=AT))
            session.flush()
            job = new_job(tenant, "job-1")
            for name, value in columns.items():
                setattr(job, name, value)
            session.merge(job)
            about = "job-1" if subject == "job-1" else None
            delivery = Delivery(notice=notice.value, subject=subject, job_id=about, facts=facts or {})
            return message_of(session, delivery, Receiver(id="r1", tenant=tenant))

    return make


def test_each_notice_about_a_job_says_what_happened(write):
    done = write(Notice.DONE, name="tiny-bot-1", finished_at=AT + timedelta(minutes=30))
    assert (done.title, done.body) == (
        "job job-1 of team-a is completed",
        "Its adapter is tiny-bot-1. It took 30 min.",
    )
    assert write(Notice.CANCELLED, tenant="default").title == "job job-1 was cancelled"
    assert "longer than 30 min" in write(Notice.WAITING, facts={"waiting_s": 1800}).body
    assert "budget of 2.0" in write(Notice.PAUSED, facts={"cause": "budget", "budget": 2.0}).body
    assert "limit of this month" in write(Notice.PAUSED, facts={"cause": "limit"}).body


def test_a_failure_has_cause_and_remedy_and_names_nothing_of_the_operators_to_a_tenant(write):
    told = write(Notice.FAILED, error=ERROR)
    assert told.body == "Cause (bad_data): the file rows.jsonl has no JSON in line 2.\nWhat to do: Mend that line."
    own = write(Notice.FAILED, tenant="default", error=ERROR)
    assert "/srv/data/rows.jsonl" in own.body
    assert "CELORA_PREPARE_FILE_BYTES" in own.body


def test_the_other_notices_name_their_subject(write):
    facts = {"version": 3, "job_id": "job-1", "reason": "96 % against 90 %", "before": "job-0"}
    moved = write(Notice.CHAMPION, subject="bot", facts=facts)
    assert moved.title == "champion bot changed (version 3)"
    assert "job-0" in moved.body
    missed = write(Notice.MISSED, subject="weekly", facts={"missed": "1 run was missed", "made_up": False})
    assert missed.body == "1 run was missed. They are not made up for."
    assert "ci" in write(Notice.OFF, subject="r2", facts={"name": "ci", "reason": "it failed"}).title
    assert write(Notice.DONE, subject="job-gone").title == "job job-gone"


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (119, "119 s"), (120, "2 min"), (7200, "2.0 h")])
def test_a_duration_has_a_unit_that_suits_it(seconds, words):
    assert duration(seconds) == words
