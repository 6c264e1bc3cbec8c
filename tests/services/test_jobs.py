"""Verbs of jobs on a record without a broker or a worker: the record is the truth."""

import uuid

import pytest
from sqlalchemy import select

from celora.errors import NotFoundError, SettingsError, TenantLimitError
from celora.models import workers
from celora.models.database import get_database
from celora.models.events import record_event
from celora.models.scope.scope import Scope
from celora.models.states import Status
from celora.models.tables import Event, Job
from celora.services import jobs
from celora.services.tenants.books import read_audit
from celora.services.tenants.limits import set_tenant
from celora.settings.settings import get_settings
from celora.workers.queues import gpu_queue, own_queue

SPEC = {"base_model": "smollm2-135m-instruct", "dataset": "/rows.jsonl"}


@pytest.fixture(autouse=True)
def record(home):
    database = get_database()
    database.migrate()
    return database


@pytest.fixture
def spec(home):
    (home / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    return SPEC | {"dataset": str(home / "rows.jsonl")}


def status_of(record, job_id):
    with record.session(Scope.everything) as session:
        return session.get_one(Job, job_id).status


def test_a_submitted_job_is_in_the_record_though_no_broker_answers(record, spec):
    chosen = jobs.submit(spec)
    assert uuid.UUID(chosen).version == 7
    assert status_of(record, chosen) is Status.PENDING


def test_the_same_id_twice_is_one_job(record, spec):
    assert jobs.submit(spec, job_id="one") == jobs.submit(spec | {"rank": 4}, job_id="one") == "one"
    with record.session(Scope.everything) as session:
        assert session.get_one(Job, "one").spec["rank"] != 4


def test_ids_sort_by_the_time_at_which_they_were_made():
    made = [jobs.new_job_id() for _ in range(3)]
    assert len(set(made)) == 3
    assert [one[:8] for one in made] == sorted(one[:8] for one in made)


def test_a_waiting_job_is_paused_resumed_and_cancelled_at_once(record, spec):
    chosen = jobs.submit(spec)
    with pytest.raises(NotFoundError):
        jobs.pause(chosen[:30])  # ids are whole
    assert jobs.pause(chosen) == "paused"
    assert jobs.resume(chosen) is True
    assert jobs.resume(chosen) is False
    assert jobs.cancel(chosen) == "cancelled"
    assert jobs.cancel(chosen) == jobs.pause(chosen) == "final"
    assert status_of(record, chosen) is Status.CANCELLED


def test_a_cancelled_job_is_retried_with_changes(record, spec):
    first = jobs.submit(spec)
    with pytest.raises(SettingsError):
        jobs.retry(first)
    jobs.cancel(first)
    second = jobs.retry(first, {"rank": 4}, new_id="again")
    with record.session(Scope.everything) as session:
        job = session.get_one(Job, second)
        assert (job.id, job.retry_of, job.spec["rank"]) == ("again", first, 4)


def test_a_retry_for_labels_that_nobody_carries_is_marked(record, spec):
    first = jobs.submit(spec)
    jobs.cancel(first)
    second = jobs.retry(first, {"labels": ["no-such"]})
    with record.session(Scope.everything) as session:
        kinds = session.scalars(select(Event.kind).where(Event.job_id == second)).all()
    assert "labels_not_carried" in kinds


def test_a_retry_drops_a_field_that_a_later_version_wrote(record, spec):
    first = jobs.submit(spec)
    jobs.cancel(first)
    with record.transaction(Scope.everything) as session:
        job = session.get_one(Job, first)
        job.spec = {**job.spec, "of_a_later_version": True}
    for changes in (None, {"rank": 4}):
        second = jobs.retry(first, changes)
        with record.session(Scope.everything) as session:
            assert "of_a_later_version" not in session.get_one(Job, second).spec
    with pytest.raises(SettingsError, match="of_a_later_version is no field"):
        jobs.retry(first, {"of_a_later_version": False})


def test_a_retry_stays_its_tenants(record, spec):
    first = jobs.submit(spec)
    jobs.cancel(first)
    with pytest.raises(SettingsError, match="tenant default"):
        jobs.retry(first, {"tenant": "other"})


def test_a_retry_with_another_parent_takes_base_and_shape_from_it(record, spec):
    def finished(job_id, **fields):
        jobs.submit({**spec, **fields}, job_id=job_id)
        with record.transaction(Scope.everything) as session:
            job = session.get_one(Job, job_id)
            job.status, job.adapter_uri = Status.COMPLETED, f"file:///{job_id}"
            job.base = {
                "source": "b", "kind": "catalogue", "name": spec["base_model"], "revision": "r", "parameters": 1,
                "context_tokens": 8, "model_type": "llama",
            }  # fmt: skip

    finished("small", rank=4)
    finished("large", rank=32)
    chosen = jobs.submit({name: value for name, value in spec.items() if name != "base_model"}
                         | {"continue_from": "small"})  # fmt: skip
    jobs.cancel(chosen)
    again = jobs.retry(chosen, {"continue_from": "large"})
    with record.session(Scope.everything) as session:
        job = session.get_one(Job, again)
        assert (job.spec["continue_from"], job.spec["rank"]) == ("large", 32)
        assert job.spec["base_model"] == spec["base_model"]
        assert job.resume_of is None, "it trains anew"
    jobs.cancel(again)
    with pytest.raises(NotFoundError, match="no job, adapter or champion nowhere"):
        jobs.retry(chosen, {"continue_from": "nowhere"})
    with pytest.raises(SettingsError, match="contradicts small, whose adapter it trains on: rank 2 is not 4"):
        jobs.retry(chosen, {"continue_from": "small", "rank": 2})


@pytest.mark.parametrize("verb", [jobs.cancel, jobs.pause, jobs.resume, jobs.retry, jobs.evaluate_again])
def test_an_unknown_job_is_named(verb):
    with pytest.raises(NotFoundError, match="no job nobody"):
        verb("nobody")


def test_another_evaluation_stands_in_the_audit_and_needs_room(record, spec, monkeypatch):
    chosen = jobs.submit(spec)
    with record.transaction(Scope.everything) as session:
        job = session.get_one(Job, chosen)
        job.status, job.gpu_type, job.prepared_uri = Status.COMPLETED, "cpu", "file:///p"
    monkeypatch.setattr(jobs.messages, "attempt", lambda *_, **__: True)
    jobs.evaluate_again(chosen, "bfloat16")
    line = read_audit(target=chosen)[0]
    assert (line.action, line.after) == ("job.evaluate", {"serving_dtype": "bfloat16"})
    set_tenant("default", {"gpu_minutes": 0})
    with pytest.raises(TenantLimitError, match="nothing is left"):
        jobs.evaluate_again(chosen)
    assert len(read_audit(target=chosen, action="job.evaluate")) == 1


def test_only_a_completed_job_whose_data_is_there_is_evaluated_again(record, spec):
    chosen = jobs.submit(spec)
    with pytest.raises(SettingsError, match="only a completed job"):
        jobs.evaluate_again(chosen)
    with record.transaction(Scope.everything) as session:
        job = session.get_one(Job, chosen)
        job.status, job.gpu_type = Status.COMPLETED, "cpu"
    with pytest.raises(SettingsError, match=f"was swept, {get_settings().keep_checkpoint_days:g} days"):
        jobs.evaluate_again(chosen)


@pytest.fixture
def sent_to(record, spec, monkeypatch):
    """The queues to which another evaluation of the job `one`, which a labelled worker trained, is sent."""
    jobs.submit(spec, job_id="one")
    with record.transaction(Scope.everything) as session:
        job = session.get_one(Job, "one")
        job.status, job.gpu_type, job.prepared_uri = Status.COMPLETED, "h100", "file:///p"
        for stage, worker in (("prepare", "prep@h"), ("train", "special@h"), ("publish", "control@h")):
            record_event(session, "one", 1, "info", "stage_started", "started", {"stage": stage, "worker": worker})
    sent = []
    monkeypatch.setattr(jobs.messages, "attempt", lambda send, *_, **__: send() is None)
    monkeypatch.setattr(jobs.app, "send_task", lambda _name, *, queue, **_: sent.append(queue))
    return sent


def online(record, name, queue, **more):
    with record.transaction(Scope.everything) as session:
        workers.register(session, name, host="h", kind="gpu", gpu_type="h100", pid=1, slots=1, queues=[queue], **more)


def test_another_evaluation_goes_to_the_worker_that_trained_where_it_has_a_queue_of_its_own(record, sent_to):
    jobs.evaluate_again("one")
    own = own_queue("h100", "special@h")
    online(record, "special@h", own, labels="highmem")
    online(record, "common@h", gpu_queue("h100"))
    jobs.evaluate_again("one")
    with record.transaction(Scope.everything) as session:
        workers.cordon(session, "special@h")
    jobs.evaluate_again("one")
    assert sent_to == [gpu_queue("h100"), own, gpu_queue("h100")]
