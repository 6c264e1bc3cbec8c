"""A tenant's view of its jobs: planted names of machines, folders, settings and commands stay with the operator."""

import json
import re
from dataclasses import asdict

import pytest
from moved_job import Moved
from sqlalchemy import update

from celora.models import queries
from celora.models.database import now
from celora.models.events import record_event
from celora.models.jobs import accept, transitions
from celora.models.queue.lane_reasons import LaneWait, record_lanes
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import JobClass, Stage, Status
from celora.models.tables import Attempt, Job
from celora.services.tenants import job_views

TENANT = "acme"
WORKER = "zqmachine"
FAULT = "zqmachine: '/srv/zq/rows.jsonl' is bad on h100-0@zq-node; see CELORA_ZQ and `celora tenant set zq`"
LEAK = re.compile(r"zq|CELORA_|celora |/srv")


@pytest.fixture
def waiting(here):
    """A waiting job whose worker of an earlier attempt had a name without any form."""
    spec = parse_spec({"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": TENANT})
    with here.transaction(Scope.everything) as session:
        accept.submit(session, job_id="job", spec=spec)
        session.add(Attempt(job_id="job", number=9, worker_id=WORKER, stage=Stage.PREPARE, started_at=now(session)))
    return here


def view(database):
    with database.session(Scope.of(TENANT)) as session:
        return job_views.job_views(session, [session.get_one(Job, "job")])["job"]


def shown(database):
    """Everything that the tenant reads of its job, as text."""
    with database.session(Scope.of(TENANT)) as session:
        job = session.get_one(Job, "job")
        events = [asdict(event) for event in job_views.job_events(session, "job")]
        receipt = job_views.job_receipt(session, job)
    return json.dumps([view(database).plain(), events, receipt], default=str)


def test_a_failed_job_names_nothing_of_the_operators(waiting):
    moved = Moved(waiting, "job")
    moved.begin(Stage.PREPARE)
    error = {
        "code": "bad_data",
        "message": FAULT,
        "hint": f"Mend line 3. Look at {FAULT}.",
        "log_tail": f"{FAULT}\nzqmachine",
    }
    with waiting.transaction(Scope.everything) as session:
        assert transitions.fail(session, moved.claim, error)
        session.execute(
            update(Job).values(warnings=[FAULT], log_uri="file:///srv/zq/log", adapter_uri="file:///srv/zq/a")
        )
    assert not LEAK.search(shown(waiting))
    failure = view(waiting).failure
    assert (failure.code, failure.hint, "rows.jsonl" in failure.message) == ("bad_data", "Mend line 3.", True)
    with waiting.session(Scope.everything) as session:
        assert queries.job_view(session, "job").failure.message == FAULT


@pytest.mark.parametrize("code", ["internal", "storage", "worker_lost", "of-tomorrow"])
def test_a_failure_of_the_service_says_its_kind_and_shows_no_log(waiting, code):
    moved = Moved(waiting, "job")
    moved.begin(Stage.PREPARE)
    moved.fail(code, FAULT)
    with waiting.transaction(Scope.everything) as session:
        job = session.get_one(Job, "job")
        job.error = {**job.error, "log_tail": "a traceback of the server"}
    assert not LEAK.search(shown(waiting))
    assert (view(waiting).failure.code, view(waiting).failure.log_tail) == (code, "")


def test_the_events_of_the_operator_have_other_words_or_are_left_out(waiting):
    kinds = (*job_views.OWN, *job_views.EVENTS, "worker_unhealthy", "announcement_failed", "of-tomorrow")
    with waiting.transaction(Scope.everything) as session:
        for kind in kinds:
            record_event(
                session, "job", 1, "info", kind, f"{kind}: {FAULT}", {"worker": WORKER, "step": 3, "stage": "train"}
            )
    assert not LEAK.search(shown(waiting))
    with waiting.session(Scope.of(TENANT)) as session:
        events = job_views.job_events(session, "job", limit=500)
        told = [event.kind for event in events]
        assert told == ["submitted", *(kind for kind in kinds[:-3])]
        assert events[1].data == {"step": 3, "stage": "train"}
        after = job_views.job_events(session, "job", after_id=events[2].id, limit=2)
        assert [event.id for event in after] == [event.id for event in events[3:5]]


def test_every_kind_of_event_that_the_code_writes_is_the_tenants_or_the_operators(waiting):
    moved = Moved(waiting, "job")
    moved.complete([{"step": 1, "train_loss": 1.0}], [1])
    with waiting.session(Scope.everything) as session:
        written = {event["kind"] for event in queries.events(session, "job")}
    assert written <= job_views.OWN | job_views.EVENTS.keys() | set(job_views.FAILED)


def test_a_waiting_job_reads_the_reason_of_its_lane_in_other_words(waiting):
    place = (Stage.PREPARE, JobClass.NORMAL, "auto", "", TENANT)
    lane = LaneWait(
        above_bytes=0, code="no_worker_ready", facts={"gpu_type": None, "obstacles": [FAULT]}, sentence=FAULT
    )
    with waiting.transaction(Scope.everything) as session:
        record_lanes(session, {place: [lane]})
    assert view(waiting).wait_reason == "no suitable device takes work at the moment"
    with waiting.session(Scope.everything) as session:
        assert queries.job_view(session, "job").wait_reason == FAULT
    assert view(waiting).status is Status.PENDING


def test_a_receipt_names_no_folder_and_keeps_the_rows_of_the_tenant(waiting):
    receipt = {"base": {"path": "/srv/zq/base"}, "warnings": [{"name": "few", "message": FAULT}], "rows": 3,
               "sample": [{"text": "see /srv/data of mine"}]}  # fmt: skip
    with waiting.transaction(Scope.everything) as session:
        job = session.get_one(Job, "job")
        assert job_views.job_receipt(session, job) is None
        job.prepared = {"receipt": receipt}
    with waiting.session(Scope.of(TENANT)) as session:
        found = job_views.job_receipt(session, session.get_one(Job, "job"))
    assert found["sample"] == receipt["sample"]
    assert not LEAK.search(json.dumps({**found, "sample": None}))
    assert found["rows"] == 3


def test_the_places_of_a_running_job_are_the_operators(waiting):
    Moved(waiting, "job").begin(Stage.PREPARE)
    found = view(waiting)
    assert (found.worker, found.queue, found.log_uri, found.adapter) == (None, None, None, None)
    with waiting.session(Scope.everything) as session:
        assert queries.job_view(session, "job").worker is not None
