"""Every status change: who may make it, what it leaves behind, and that nobody else's does anything."""

import threading
from datetime import timedelta

import pytest

from celora.errors import NotFoundError
from celora.models import queries
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason, Ruling, Stage, Status
from celora.models.tables import Adapter, Announcement, Attempt, Job

WORKER, OTHER = "cpu-0@here", "cpu-1@there"
SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": "acme", "user": "ada"}
ERROR = {"code": "internal", "message": "it broke", "hint": "mend it", "log_tail": "Traceback"}
ADAPTER = {"name": "tiny-1", "uri": "file:///a", "base_name": "tiny", "base_revision": "r", "rank": 16}


def events_of(record, job_id="job"):
    with record.database.session(Scope.everything) as session:
        return queries.events(session, job_id)


def kinds_of(record, job_id="job"):
    return [event["kind"] for event in events_of(record, job_id)]


def row(record, kind, key):
    with record.database.session(Scope.everything) as session:
        return session.get(kind, key)


def hours_later(record, hours=1):
    with record.database.session(Scope.everything) as session:
        return record.database.now(session) + timedelta(hours=hours)


def test_a_whole_life_leaves_a_legal_history_and_an_announcement(record, legal_history):
    record.new()
    values = {
        "prepare": {"prepared_uri": "p", "memory_bytes": 2**40, "warnings": ["one"]},
        "train": {"result": {"train_loss": 1.5}, "warnings": ["one", "two"]},
        "evaluate": {"metrics": {"tuned": {"exact_match": 1.0}}},
        "publish": {"summary": {"adapter": "file:///a"}, "adapter": ADAPTER},
    }
    for stage in Stage:
        record_status = record.job().status
        if record_status is Status.PENDING:
            assert record.send("job", 1, stage, queue="q", gpu_type="cpu" if stage.on_gpu else None)
        claimed = record.claim("job", 1, stage, worker_id=WORKER, lease_s=90)
        assert claimed.status is Status.RUNNING
        assert record.advance(Claim("job", 1, WORKER, 3600), stage, values[stage])
    job = record.job()
    assert (job.status, job.stage, job.attempt) == (Status.COMPLETED, Stage.PUBLISH, 1)
    assert job.warnings == ["one", "two"]
    assert (job.memory_bytes, job.adapter_uri, job.name) == (2**40, "file:///a", "tiny-1")
    assert job.worker_id is None
    assert job.lease_until is None
    assert job.cost == pytest.approx(job.gpu_seconds)
    assert 0 < job.gpu_seconds < 60
    assert row(record, Adapter, "job").tenant == "acme"
    assert row(record, Attempt, ("job", 1)).outcome == "completed"
    assert row(record, Announcement, "job").announced_at is None
    assert legal_history(events_of(record)) == []


def test_the_checker_of_histories_finds_faults(record, legal_history):
    record.bring(Status.RUNNING, Stage.TRAIN)
    events = events_of(record)
    assert legal_history(events) == []
    assert legal_history([*events, {**events[-1]}])
    assert legal_history(events[1:])
    assert legal_history([*events[:-1], {**events[-1], "attempt": 2}])


def test_after_prepare_a_job_waits_and_after_train_it_keeps_its_slot(record):
    job = record.bring(Status.PENDING, Stage.TRAIN)
    assert (job.worker_id, job.gpu_type, job.released_at) == (None, None, None)
    record.send("job", 1, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 1, Stage.TRAIN, worker_id=WORKER, lease_s=90)
    record.advance(Claim("job", 1, WORKER), Stage.TRAIN, {})
    job = record.job()
    assert (job.status, job.stage, job.queue, job.gpu_type) == (Status.QUEUED, Stage.EVALUATE, "gpu.cpu", "cpu")
    record.claim("job", 1, Stage.EVALUATE, worker_id=WORKER, lease_s=90)
    record.advance(Claim("job", 1, WORKER), Stage.EVALUATE, {})
    assert record.job().queue == "celora"


def test_only_gpu_stages_are_charged(record):
    record.bring(Status.RUNNING)
    record.advance(Claim("job", 1, WORKER, 100), Stage.PREPARE, {})
    assert (record.job().gpu_seconds, record.job().cost) == (0, 0)


def test_a_stage_can_fill_no_column_that_is_a_transitions(record):
    record.bring(Status.RUNNING)
    with pytest.raises(ValueError, match="can't fill status"):
        record.advance(Claim("job", 1, WORKER), Stage.PREPARE, {"status": "completed"})
    assert record.job().status is Status.RUNNING


def test_submitting_an_id_twice_is_one_job(record):
    first, created = record.submit(job_id="job", spec=parse_spec(SPEC))
    second, again = record.submit(job_id="job", spec=parse_spec(SPEC | {"seed": 7}))
    assert (created, again) == (True, False)
    assert second.spec["seed"] == first.spec["seed"] != 7
    assert kinds_of(record) == ["submitted"]


def test_a_seed_left_open_is_recorded_and_depends_on_the_id_alone(record):
    seeds = {record.submit(job_id=f"job{n}", spec=parse_spec(SPEC))[0].spec["seed"] for n in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_many_submits_of_one_id_at_once_are_one_job(record):
    created = at_once(8, lambda _: record.submit(job_id="job", spec=parse_spec(SPEC))[1])
    assert sorted(created) == [False] * 7 + [True]


def test_a_later_message_brings_the_callers_request(record):
    record.new()
    job, created = record.submit(job_id="job", spec=parse_spec(SPEC), request={"id": "job", "chain": []})
    assert (created, job.request) == (False, {"id": "job", "chain": []})
    job, _ = record.submit(job_id="job", spec=parse_spec(SPEC), request={"id": "other"})
    assert job.request == {"id": "job", "chain": []}


def test_a_request_that_comes_after_the_end_is_announced_again(record):
    record.new()
    record.request_cancel("job")
    assert record.claim_announcement("job", 30)
    record.mark_announced("job")
    record.submit(job_id="job", spec=parse_spec(SPEC), request={"id": "job"})
    assert record.claim_announcement("job", 30)


def test_a_rejected_spec_is_a_failed_row(record, legal_history):
    job = record.reject("job", {"base_model": 3, "tenant": "x" * 100, "gpu": None}, ERROR)
    assert (job.status, job.tenant, job.error["message"]) == (Status.FAILED, "default", "it broke")
    assert job.finished_at is not None
    assert row(record, Announcement, "job") is None
    assert legal_history(events_of(record)) == []
    record.reject("told", {}, ERROR, {"id": "told"})
    assert row(record, Announcement, "told") is not None


def test_rejecting_an_id_that_is_known_changes_nothing(record):
    record.new()
    assert record.reject("job", {}, ERROR).status is Status.PENDING
    assert kinds_of(record) == ["submitted"]


def test_of_many_claimers_exactly_one_wins(record):
    for round_ in range(5):
        job_id = f"job{round_}"
        record.new(job_id)
        record.send(job_id, 1, Stage.PREPARE, queue="prep")
        won = at_once(6, lambda n, job=job_id: record.claim(job, 1, "prepare", worker_id=f"w{n}", lease_s=90))
        winners = [job for job in won if job is not None]
        assert len(winners) == 1
        assert record.job(job_id).worker_id == winners[0].worker_id
        assert kinds_of(record, job_id).count("stage_started") == 1


def test_a_finish_and_the_reaper_at_once_leave_one_outcome(record, legal_history):
    for round_ in range(5):
        job_id = f"job{round_}"
        record.new(job_id)
        record.send(job_id, 1, Stage.PREPARE, queue="prep")
        record.claim(job_id, 1, Stage.PREPARE, worker_id=WORKER, lease_s=-1)
        both = [
            lambda job=job_id: record.advance(Claim(job, 1, WORKER), Stage.PREPARE, {}),
            lambda: record.expire(None, 3),
        ]
        finished, expired = at_once(2, lambda n, both=both: both[n]())
        assert finished is not bool(expired)
        assert (record.job(job_id).stage is Stage.TRAIN) is finished
        assert legal_history(events_of(record, job_id)) == []


def test_a_resend_counts_once_and_only_while_nobody_claimed(record):
    job = record.bring(Status.QUEUED)
    published = [at for at in at_once(4, lambda _: record.resend("job", 1, "prepare", job.publication)) if at]
    assert published == [job.publication + 1]
    record.claim("job", 1, "prepare", worker_id=WORKER, lease_s=90)
    assert record.resend("job", 1, "prepare", job.publication + 1) is None


def test_a_late_renewal_counts_as_long_as_nobody_took_the_job(record):
    record.bring(Status.QUEUED)
    record.claim("job", 1, Stage.PREPARE, worker_id=WORKER, lease_s=-100)
    assert record.renew(Claim("job", 1, WORKER), 90) == "ok"
    assert record.expire(None, 3) == []
    assert record.renew(Claim("job", 1, OTHER), 90) == "lost"


def test_the_lease_is_by_the_databases_clock(record):
    job = record.bring(Status.RUNNING)
    with record.database.session(Scope.everything) as session:
        now = record.database.now(session)
    assert 80 < (job.lease_until - now).total_seconds() <= 90


def test_a_fenced_attempt_changes_nothing(record, legal_history):
    record.bring(Status.RUNNING, Stage.TRAIN)
    assert [job.id for job in record.expire(hours_later(record), 3)] == ["job"]
    record.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 2, Stage.TRAIN, worker_id=OTHER, lease_s=90)
    before, seen = vars_of(record.job()), kinds_of(record)
    assert record.renew(Claim("job", 1, WORKER), 90) == "lost"
    assert not record.advance(Claim("job", 1, WORKER), Stage.TRAIN, {"adapter_uri": "mine"})
    assert not record.fail(Claim("job", 1, WORKER), ERROR)
    assert not record.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    assert not record.finish_cancel(Claim("job", 1, WORKER))
    assert not record.record_progress(Claim("job", 1, WORKER), {"step": 9})
    assert not record.record_metric_points(Claim("job", 1, WORKER), [{"step": 9, "train_loss": 1.0}])
    assert not record.record_checkpoint(
        Claim("job", 1, WORKER), step=9, uri="u", size_bytes=1, manifest_sha256="0" * 64
    )
    assert record.claim("job", 1, Stage.TRAIN, worker_id=WORKER, lease_s=90) is None
    assert record.send("job", 1, Stage.TRAIN, queue="q") is None
    assert record.renew(Claim("job", 2, WORKER), 90) == "lost"
    assert (vars_of(record.job()), kinds_of(record)) == (before, seen)
    assert legal_history(events_of(record)) == []


def test_a_lost_worker_costs_an_attempt_and_the_job_goes_to_the_front(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    (job,) = record.expire(hours_later(record), 3, prices={"cpu": 3600})
    assert (job.status, job.attempt, job.stale_attempts, job.recovered) == (Status.PENDING, 2, 1, True)
    assert (job.worker_id, job.gpu_type, job.lease_until, job.reason) == (None, None, None, Reason.WORKER_LOST)
    assert job.cost == pytest.approx(job.gpu_seconds)
    assert 0 < job.gpu_seconds <= 90
    lost = row(record, Attempt, ("job", 1))
    assert (lost.outcome, lost.ended_at is None) == ("lost", False)
    record.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    assert record.claim("job", 2, Stage.TRAIN, worker_id=OTHER, lease_s=90).recovered is False


def test_a_lost_worker_is_charged_to_the_end_of_its_lease(record):
    record.bring(Status.QUEUED, Stage.TRAIN)
    record.claim("job", 1, Stage.TRAIN, worker_id=WORKER, lease_s=0)
    (job,) = record.expire(hours_later(record), 3)
    assert job.gpu_seconds == 0


def test_attempts_without_progress_run_out(record, legal_history):
    record.bring(Status.RUNNING, Stage.TRAIN)
    for attempt in (1, 2):
        record.expire(hours_later(record), 3)
        record.send("job", attempt + 1, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
        record.claim("job", attempt + 1, Stage.TRAIN, worker_id=WORKER, lease_s=90)
    (job,) = record.expire(hours_later(record), 3)
    assert (job.status, job.attempt) == (Status.FAILED, 3)
    assert (job.error["code"], job.error["stage"]) == ("worker_lost", "train")
    assert row(record, Attempt, ("job", 3)).outcome == "failed"
    assert row(record, Announcement, "job") is not None
    assert legal_history(events_of(record)) == []


def test_a_later_checkpoint_resets_the_count_and_is_where_the_next_attempt_goes_on(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    for attempt in range(1, 6):
        step = 10 * attempt
        record.record_checkpoint(
            Claim("job", attempt, WORKER), step=step, uri=f"u{step}", size_bytes=1, manifest_sha256="0" * 64
        )
        (job,) = record.expire(hours_later(record), 2)
        assert (job.status, job.stale_attempts) == (Status.PENDING, 0)
        record.send("job", attempt + 1, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
        job = record.claim("job", attempt + 1, Stage.TRAIN, worker_id=WORKER, lease_s=90)
        assert (job.resume_step, job.step) == (step, step)
    with record.database.session(Scope.everything) as session:
        assert [row.step for row in queries.resume_candidates(session, "job")] == [50, 40, 30, 20, 10]


def test_a_checkpoint_at_the_resume_point_is_no_progress(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.record_checkpoint(Claim("job", 1, WORKER), step=10, uri="u", size_bytes=1, manifest_sha256="0" * 64)
    record.expire(hours_later(record), 3)
    record.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 2, Stage.TRAIN, worker_id=WORKER, lease_s=90)
    record.record_checkpoint(Claim("job", 2, WORKER), step=10, uri="v", size_bytes=1, manifest_sha256="0" * 64)
    (job,) = record.expire(hours_later(record), 3)
    assert job.stale_attempts == 1


def test_a_drained_job_pays_no_attempt(record, legal_history):
    record.bring(Status.RUNNING, Stage.TRAIN)
    assert record.release(Claim("job", 1, WORKER), Reason.PREEMPTED, resume_step=40)
    job = record.job()
    assert (job.status, job.attempt, job.stale_attempts, job.recovered) == (Status.PENDING, 2, 0, True)
    assert (job.reason, job.step) == (Reason.PREEMPTED, 40)
    assert legal_history(events_of(record)) == []


@pytest.mark.parametrize("stage", [Stage.EVALUATE, Stage.PUBLISH])
def test_a_drain_of_a_later_stage_leaves_the_steps_of_the_training(record, stage):
    record.bring(Status.RUNNING, stage)
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "job").step = 40
    record.release(Claim("job", 1, WORKER), Reason.PREEMPTED, resume_step=0)
    assert record.job().step == 40


def test_a_failure_that_is_tried_again_pays_one(record, legal_history):
    record.bring(Status.RUNNING, Stage.TRAIN)
    assert record.try_again(Claim("job", 1, WORKER), ERROR, Ruling(again=True, reason=Reason.RETRYING))
    assert (record.job().attempt, record.job().stale_attempts) == (2, 1)
    assert row(record, Attempt, ("job", 1)).error["message"] == "it broke"
    assert legal_history(events_of(record)) == []


@pytest.mark.parametrize("status", [Status.PENDING, Status.QUEUED])
@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN])
def test_a_cancel_of_a_waiting_job_is_final_at_once(record, status, stage, legal_history):
    record.bring(status, stage)
    assert record.request_cancel("job") == "cancelled"
    assert record.job().status is Status.CANCELLED
    assert record.claim("job", 1, stage, worker_id=WORKER, lease_s=90) is None
    assert record.send("job", 1, stage, queue="q") is None
    assert row(record, Announcement, "job") is not None
    assert record.request_cancel("job") == "final"
    assert legal_history(events_of(record)) == []


@pytest.mark.parametrize("stage", list(Stage))
def test_a_cancel_of_a_running_job_waits_for_its_process(record, stage, legal_history):
    record.bring(Status.RUNNING, stage)
    assert record.request_cancel("job") == "cancelling"
    assert record.request_cancel("job") == "cancelling"
    assert (record.job().status, record.job().reason) == (Status.RUNNING, Reason.CANCELLING)
    assert record.renew(Claim("job", 1, WORKER), 90) == "cancel"
    assert not record.finish_cancel(Claim("job", 1, OTHER))
    assert record.finish_cancel(Claim("job", 1, WORKER))
    assert (record.job().status, record.job().reason) == (Status.CANCELLED, Reason.NONE)
    assert legal_history(events_of(record)) == []


@pytest.mark.parametrize("ending", ["advance", "release", "expire"])
def test_a_cancel_wins_over_every_other_way_out_of_running(record, ending, legal_history):
    record.bring(Status.RUNNING, Stage.PUBLISH)
    record.request_cancel("job")
    if ending == "advance":
        assert not record.advance(Claim("job", 1, WORKER), Stage.PUBLISH, {"adapter": ADAPTER})
    elif ending == "release":
        assert record.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    else:
        assert len(record.expire(hours_later(record), 3)) == 1
    assert record.job().status is Status.CANCELLED
    assert row(record, Adapter, "job") is None
    assert row(record, Announcement, "job") is not None
    assert legal_history(events_of(record)) == []


def test_a_cancel_knows_tenants(record):
    record.new()
    with pytest.raises(NotFoundError, match="no job job"):
        record.request_cancel("job", tenant="other")
    with pytest.raises(NotFoundError):
        record.request_cancel("nothing")
    assert record.request_cancel("job", tenant="acme") == "cancelled"


def test_a_failed_job_says_why(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    assert record.fail(Claim("job", 1, WORKER), ERROR)
    assert record.job().error == {"stage": "train", **ERROR}
    assert row(record, Attempt, ("job", 1)).outcome == "failed"


def test_a_waiting_job_fails_by_no_worker(record):
    record.bring(Status.QUEUED, Stage.TRAIN)
    assert not record.fail(Claim("job", 1, WORKER), ERROR)
    assert record.job().status is Status.QUEUED


def test_an_end_is_announced_by_one(record):
    record.new()
    record.request_cancel("job")
    assert sorted(at_once(4, lambda _: record.claim_announcement("job", 30))) == [False, False, False, True]
    record.mark_announced("job")
    assert not record.claim_announcement("job", 30)


def test_a_claim_to_announce_runs_out_and_what_was_announced_is_over(record):
    record.new()
    record.request_cancel("job")
    assert record.claim_announcement("job", -1)
    assert record.claim_announcement("job", -1)
    record.mark_announced("job")
    assert not record.claim_announcement("job", 30)


def test_measuring_a_completed_job_again_keeps_its_status(record, legal_history):
    record.bring(Status.RUNNING, Stage.PUBLISH)
    record.advance(Claim("job", 1, WORKER), "publish", {"summary": {"metrics": {}, "id": "job"}, "adapter": ADAPTER})
    assert record.record_evaluation("job", {"metrics": {"tuned": {"bleu": 1.0}}, "warnings": ["new"]})
    job = record.job()
    assert (job.status, job.summary["metrics"], job.summary["warnings"]) == (
        Status.COMPLETED,
        {"tuned": {"bleu": 1.0}},
        ["new"],
    )
    assert row(record, Adapter, "job").metrics == {"tuned": {"bleu": 1.0}}
    assert legal_history(events_of(record)) == []


def test_what_was_measured_as_served_stands_beside_the_jobs_own_and_outlives_another_evaluation(record, legal_history):
    record.bring(Status.RUNNING, Stage.PUBLISH)
    values = {"summary": {"metrics": {}, "id": "job"}, "adapter": ADAPTER, "metrics": {"tuned": {"bleu": 1.0}}}
    record.advance(Claim("job", 1, WORKER), "publish", values)
    served = {"dtype": "bfloat16", "metrics": {"tuned": {"bleu": 0.9}}, "warnings": [], "uri": "u"}
    assert record.record_serving_evaluation("job", served)
    assert record.record_serving_evaluation("job", {**served, "dtype": "float16"})
    assert record.record_evaluation("job", {"evaluation": {"uri": "new"}, "metrics": {"tuned": {"bleu": 2.0}}})
    job = record.job()
    assert job.metrics == {"tuned": {"bleu": 2.0}}
    assert set(job.evaluation["serving"]) == {"bfloat16", "float16"}
    assert (job.evaluation["serving"]["bfloat16"], job.evaluation["uri"]) == (served, "new")
    assert legal_history(events_of(record)) == []


def test_only_a_completed_job_is_measured_again(record):
    record.bring(Status.RUNNING, Stage.EVALUATE)
    assert not record.record_serving_evaluation("job", {"dtype": "bfloat16", "metrics": {}})
    assert not record.record_evaluation("job", {"metrics": {}})


def at_once(count, work):
    """Run ``work(n)`` on threads that start together; their results in order."""
    barrier, results = threading.Barrier(count), [None] * count

    def run(number):
        barrier.wait()
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def vars_of(job):
    return {column.key: getattr(job, column.key) for column in Job.__table__.columns if column.key != "user_name"}
