"""What people ask of a job, in every state it may be in, on both databases."""

from datetime import timedelta

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.models import queries
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason, Ruling, Stage, Status
from celora.models.tables import Announcement, Attempt, Job
from celora.tuning.recipe import Adjusted

WORKER, OTHER = "cpu-0@here", "cpu-1@there"
SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": "acme", "user": "ada"}
ERROR = {"code": "internal", "message": "it broke", "hint": "mend it", "log_tail": "Traceback"}
PREPARED = {
    "base": {"name": "tiny", "revision": "r"}, "prepared": {"max_length": 64}, "prepared_uri": "file:///p",
    "dataset_sha256": "d" * 64, "memory_bytes": 2**40,
}  # fmt: skip
RESOLVED = {"micro_batch": 2}
STAGES = list(Stage)
WAITING = [(Status.PENDING, Stage.PREPARE), (Status.PENDING, Stage.TRAIN), (Status.QUEUED, Stage.PREPARE),
           (Status.QUEUED, Stage.TRAIN), (Status.QUEUED, Stage.EVALUATE), (Status.QUEUED, Stage.PUBLISH)]  # fmt: skip


@pytest.fixture
def told(record, legal_history):
    """The kinds of a job's events, once its history was found legal."""

    def kinds(job_id="job"):
        with record.database.session(Scope.everything) as session:
            events = queries.events(session, job_id)
        assert legal_history(events) == []
        return [event["kind"] for event in events]

    return kinds


@pytest.fixture
def walk(record):
    """Brings the job to a stage that runs, with what ``prepare`` and ``train`` leave behind."""

    def to(stage, job_id="job"):
        if job_id == "job":
            record.new(job_id)
        values = {Stage.PREPARE: PREPARED, Stage.TRAIN: {"result": {"adapter_uri": "file:///a"}, "resolved": RESOLVED,
                                                         "step": 8, "steps": 8}}  # fmt: skip
        while (job := record.job(job_id)).stage is not stage or job.status is not Status.RUNNING:
            if job.status is Status.PENDING:
                record.send(job_id, job.attempt, job.stage, queue="q", gpu_type="cpu" if job.stage.on_gpu else None)
            elif job.status is Status.QUEUED:
                record.claim(job_id, job.attempt, job.stage, worker_id=WORKER, lease_s=90)
            else:
                done = values.get(job.stage, {})
                assert record.advance(Claim(job_id, job.attempt, WORKER), job.stage, done)
        return record.job(job_id)

    return to


def save(record, step, job_id="job"):
    facts = {"uri": f"file:///{job_id}-{step}", "size_bytes": 1, "manifest_sha256": "0" * 64}
    assert record.record_checkpoint(Claim(job_id, record.job(job_id).attempt, WORKER), step=step, **facts)


def later(record):
    with record.database.session(Scope.everything) as session:
        return record.database.now(session) + timedelta(hours=1)


def candidates(record, job_id):
    with record.database.session(Scope.everything) as session:
        return [(row.job_id, row.step) for row in queries.resume_candidates(session, job_id)]


@pytest.mark.parametrize(("status", "stage"), WAITING)
def test_a_waiting_job_is_paused_at_once_and_no_message_starts_it(record, told, status, stage):
    before = record.bring(status, stage)
    assert record.request_pause("job") == "paused"
    assert record.request_pause("job") == "paused"
    job = record.job()
    assert (job.status, job.stage, job.paused, job.reason) == (Status.PENDING, stage, True, Reason.PAUSED)
    assert record.claim("job", before.attempt, stage, worker_id=WORKER, lease_s=90) is None
    assert record.send("job", job.attempt, stage, queue="q", gpu_type="cpu") is None
    assert told().count("paused") == 1
    assert job.stale_attempts == 0


@pytest.mark.parametrize(("status", "stage"), WAITING)
def test_a_paused_job_goes_on_where_it_was_at_the_front(record, told, status, stage):
    record.bring(status, stage)
    record.request_pause("job")
    assert record.resume("job")
    assert not record.resume("job")
    job = record.job()
    assert (job.paused, job.reason, job.wait_reason, job.stage) == (False, Reason.NONE, "", stage)
    assert record.send("job", job.attempt, stage, queue="q", gpu_type="cpu" if stage.on_gpu else None)
    assert record.claim("job", job.attempt, stage, worker_id=WORKER, lease_s=90)
    assert told().count("unpaused") == 1


def test_a_paused_job_that_had_been_sent_goes_before_the_ones_that_came_later(record):
    record.bring(Status.QUEUED, Stage.TRAIN)
    record.request_pause("job")
    record.resume("job")
    assert record.job().recovered


def test_a_running_job_is_asked_and_pauses_when_its_worker_lets_go(record, told, walk):
    walk(Stage.TRAIN)
    save(record, 4)
    assert record.request_pause("job") == "pausing"
    assert record.request_pause("job") == "pausing"
    assert record.renew(Claim("job", 1, WORKER), 90) == "pause"
    assert record.job().status is Status.RUNNING
    assert record.release(Claim("job", 1, WORKER), Reason.PREEMPTED, resume_step=4)
    job = record.job()
    assert (job.status, job.paused, job.pause_requested, job.reason) == (Status.PENDING, True, False, Reason.PAUSED)
    assert (job.attempt, job.stale_attempts, job.gpu_type, job.worker_id) == (2, 0, None, None)
    assert candidates(record, "job") == [("job", 4)]
    assert told().count("pause_requested") == 1
    record.resume("job")
    record.send("job", 2, Stage.TRAIN, queue="q", gpu_type="cpu")
    assert record.claim("job", 2, Stage.TRAIN, worker_id=OTHER, lease_s=90).resume_step == 4


def test_a_pause_is_taken_back_before_it_happened(record, told, walk):
    walk(Stage.TRAIN)
    record.request_pause("job")
    assert record.resume("job")
    assert record.renew(Claim("job", 1, WORKER), 90) == "ok"
    assert record.advance(Claim("job", 1, WORKER), Stage.TRAIN, {})
    assert (record.job().status, record.job().paused) == (Status.QUEUED, False)
    assert told()


def test_a_worker_that_stopped_for_a_pause_taken_back_meanwhile_gives_the_job_back_unpaused(record, told, walk):
    walk(Stage.TRAIN)
    record.request_pause("job")
    record.resume("job")
    record.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    assert (record.job().status, record.job().paused) == (Status.PENDING, False)
    assert record.send("job", 2, Stage.TRAIN, queue="q", gpu_type="cpu")
    assert told()


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_stage_that_ends_before_the_pause_pauses_the_job_before_the_next(record, told, walk, stage):
    walk(stage)
    record.request_pause("job")
    assert record.advance(Claim("job", 1, WORKER), stage, {})
    job = record.job()
    assert (job.status, job.stage, job.paused, job.pause_requested) == (Status.PENDING, stage.following, True, False)
    assert record.claim("job", 1, stage.following, worker_id=WORKER, lease_s=90) is None
    record.resume("job")
    assert record.send("job", 1, stage.following, queue="q", gpu_type="cpu" if stage.following.on_gpu else None)
    assert told().count("paused") == 1


def test_a_job_that_finishes_before_the_pause_is_finished(record, told, walk):
    walk(Stage.PUBLISH)
    record.request_pause("job")
    record.advance(Claim("job", 1, WORKER), Stage.PUBLISH, {})
    job = record.job()
    assert (job.status, job.paused, job.pause_requested) == (Status.COMPLETED, False, False)
    assert record.request_pause("job") == "final"
    assert not record.resume("job")
    assert told()[-1] == "completed"


def test_a_cancel_wins_over_a_pause_and_a_pause_does_not_undo_a_cancel(record, told, walk):
    walk(Stage.TRAIN)
    record.request_pause("job")
    assert record.request_cancel("job") == "cancelling"
    assert record.request_pause("job") == "cancelling"
    assert record.renew(Claim("job", 1, WORKER), 90) == "cancel"
    record.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    assert (record.job().status, record.job().paused, record.job().pause_requested) == (Status.CANCELLED, False, False)
    assert told()[-1] == "cancelled"


def test_a_paused_job_is_cancelled_at_once(record, told):
    record.bring(Status.QUEUED, Stage.TRAIN)
    record.request_pause("job")
    assert record.request_cancel("job") == "cancelled"
    assert not record.resume("job")
    with record.database.session(Scope.everything) as session:
        assert session.get(Announcement, "job") is not None
        assert session.get(Attempt, ("job", 1)).ended_at is not None
    assert told()[-1] == "cancelled"


def test_a_worker_lost_while_it_was_to_pause_leaves_a_paused_job(record, told, walk):
    walk(Stage.TRAIN)
    record.request_pause("job")
    assert [job.id for job in record.expire(later(record), 3)] == ["job"]
    job = record.job()
    assert (job.status, job.paused, job.pause_requested, job.attempt) == (Status.PENDING, True, False, 2)
    assert record.send("job", 2, Stage.TRAIN, queue="q", gpu_type="cpu") is None
    record.resume("job")
    assert record.send("job", 2, Stage.TRAIN, queue="q", gpu_type="cpu")
    assert told()


def test_a_stage_that_fails_while_it_was_to_pause_is_tried_again_only_after_resume(record, told, walk):
    walk(Stage.TRAIN)
    record.request_pause("job")
    record.try_again(Claim("job", 1, WORKER), ERROR, Ruling(again=True, reason=Reason.RETRYING))
    assert (record.job().paused, record.job().faults) == (True, {"internal": 1})
    assert record.send("job", 2, Stage.TRAIN, queue="q", gpu_type="cpu") is None
    assert told()


def test_a_job_handed_back_by_a_worker_that_takes_none_waits_without_paying(record, told):
    record.bring(Status.QUEUED, Stage.TRAIN)
    assert record.hand_back("job", 1, "train", "cpu-0@here is cordoned")
    assert not record.hand_back("job", 1, "train", "again")
    job = record.job()
    assert (job.status, job.attempt, job.stale_attempts, job.gpu_type) == (Status.PENDING, 1, 0, None)
    assert "handed_back" in told()
    assert record.send("job", 1, Stage.TRAIN, queue="q", gpu_type="cpu")


@pytest.mark.parametrize("verb", ["request_pause", "resume", "request_cancel"])
def test_another_tenants_job_is_not_there(record, verb):
    record.new()
    with pytest.raises(NotFoundError, match="there is no job job"):
        getattr(record, verb)("job", tenant="other")
    with pytest.raises(NotFoundError, match="there is no job nobody"):
        getattr(record, verb)("nobody")
    assert record.job().status is Status.PENDING


def test_a_failed_training_is_tried_again_from_its_checkpoint(record, told, walk):
    walk(Stage.TRAIN)
    save(record, 2)
    save(record, 4)
    record.fail(Claim("job", 1, WORKER), ERROR)
    record.retry("job", "new")
    job = record.job("new")
    assert (job.status, job.stage, job.attempt) == (Status.PENDING, Stage.TRAIN, 1)
    assert (job.retry_of, job.resume_of, job.prepared_uri) == ("job", "job", "file:///p")
    assert (job.base, job.memory_bytes, job.spec) == (PREPARED["base"], 2**40, record.job().spec)
    assert (job.train_s, job.faults, job.error) == (0, None, None)
    assert candidates(record, "new") == [("job", 4), ("job", 2)]
    record.send("new", 1, Stage.TRAIN, queue="q", gpu_type="cpu")
    assert record.claim("new", 1, Stage.TRAIN, worker_id=WORKER, lease_s=90).resume_step == 4
    assert told("new")[:2] == ["submitted", "retries"]
    assert record.job().status is Status.FAILED


def test_a_retry_of_a_retry_goes_on_from_whichever_came_furthest(record, told, walk):
    walk(Stage.TRAIN)
    save(record, 6)
    record.fail(Claim("job", 1, WORKER), ERROR)
    record.retry("job", "second")
    walk(Stage.TRAIN, "second")
    save(record, 4, "second")
    record.fail(Claim("second", 1, WORKER), ERROR)
    record.retry("second", "third")
    assert candidates(record, "third") == [("job", 6), ("second", 4)]
    assert record.job("third").retry_of == record.job("third").resume_of == "second"
    assert told("third")


def test_a_change_that_trains_the_same_keeps_what_was_reached(record, walk):
    walk(Stage.TRAIN)
    save(record, 4)
    record.fail(Claim("job", 1, WORKER), {**ERROR, "code": "time_limit"})
    record.retry("job", "new", changes={"time_limit_minutes": 600, "micro_batch": 1})
    job = record.job("new")
    assert (job.stage, job.resume_of, job.spec["time_limit_minutes"]) == (Stage.TRAIN, "job", 600)


def test_a_change_that_trains_something_else_starts_from_the_beginning(record, told, walk):
    walk(Stage.TRAIN)
    save(record, 4)
    record.fail(Claim("job", 1, WORKER), ERROR)
    record.retry("job", "new", changes={"rank": 4, "time_limit_minutes": 600})
    job = record.job("new")
    assert (job.stage, job.resume_of, job.retry_of, job.prepared_uri) == (Stage.PREPARE, None, "job", None)
    assert job.spec["rank"] == 4
    assert candidates(record, "new") == []
    assert told("new")


@pytest.mark.parametrize("stage", [Stage.EVALUATE, Stage.PUBLISH])
def test_a_job_that_failed_after_training_does_not_train_again(record, told, walk, stage):
    walk(stage)
    record.fail(Claim("job", 1, WORKER), ERROR)
    record.retry("job", "new")
    job = record.job("new")
    assert (job.stage, job.result, job.resolved, job.step) == (
        Stage.EVALUATE, {"adapter_uri": "file:///a"}, RESOLVED, 8,
    )  # fmt: skip
    record.send("new", 1, Stage.EVALUATE, queue="q", gpu_type="cpu")
    assert record.claim("new", 1, Stage.EVALUATE, worker_id=WORKER, lease_s=90)
    assert told("new")


def test_a_job_that_failed_before_it_had_data_starts_from_the_beginning(record, told):
    record.bring(Status.RUNNING)
    record.fail(Claim("job", 1, WORKER), ERROR)
    record.retry("job", "new")
    assert (record.job("new").stage, record.job("new").resume_of) == (Stage.PREPARE, None)
    assert told("new")


def test_a_cancelled_job_can_be_tried_again_too(record, walk):
    walk(Stage.TRAIN)
    save(record, 4)
    record.finish_cancel(Claim("job", 1, WORKER))
    record.retry("job", "new")
    assert candidates(record, "new") == [("job", 4)]


def test_what_a_devices_memory_forced_on_a_job_holds_for_its_retry(record, walk):
    walk(Stage.TRAIN)
    smaller = {"micro_batch": 1, "gradient_checkpointing": None, "why": "oom"}
    ruling = Ruling(again=True, reason=Reason.ADJUSTED, adjusted=Adjusted(**smaller), least_memory_bytes=2**35)
    record.try_again(Claim("job", 1, WORKER), ERROR, ruling)
    record.request_cancel("job")
    record.retry("job", "new")
    assert (record.job("new").adjusted, record.job("new").least_memory_bytes) == (smaller, 2**35)


@pytest.mark.parametrize("status", [Status.PENDING, Status.QUEUED, Status.RUNNING, Status.COMPLETED])
def test_a_job_that_did_not_fail_is_not_tried_again(record, status):
    record.bring(status, Stage.PUBLISH if status is Status.COMPLETED else Stage.PREPARE)
    if status is Status.COMPLETED:
        record.send("job", 1, Stage.PUBLISH, queue="q")
    with pytest.raises(SettingsError, match=f"is {record.job().status}; only a failed or cancelled"):
        record.retry("job", "new")
    with record.database.session(Scope.everything) as session:
        assert session.get(Job, "new") is None


def test_a_retry_is_of_ones_own_job_and_of_fields_that_there_are(record):
    record.new()
    record.request_cancel("job")
    with pytest.raises(NotFoundError):
        record.retry("job", "new", tenant="other")
    with pytest.raises(SettingsError, match="did you mean rank"):
        record.retry("job", "new", changes={"lora_rnk": 3})
    record.retry("job", "new", tenant="acme", changes={"tenant": "other"})
    assert (record.job("new").tenant, record.job("new").spec["tenant"]) == ("acme", "acme")


def test_a_retry_keeps_the_seed_of_the_job_that_it_tries_again(record):
    record.submit(job_id="job", spec=parse_spec(SPEC))
    record.request_cancel("job")
    record.retry("job", "new")
    assert record.job("new").spec["seed"] == record.job().spec["seed"]
