"""What people and programs read, as they expect it."""

from datetime import UTC

import pytest
from sqlalchemy import literal_column, update

from celora.errors import NotFoundError
from celora.models import queries
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Event, Job

WORKER, OTHER = "cpu-0@here", "cpu-1@there"
FACTS = {"host": "here", "pid": 1, "versions": {"python": "3.11"}}
ADAPTER = {"name": "tiny-1", "uri": "file:///a", "base_name": "tiny", "base_revision": "r", "rank": 16}


@pytest.fixture
def read(record):
    def run(name, *args, **options):
        with record.database.session(Scope.everything) as session:
            return getattr(queries, name)(session, *args, **options)

    return run


def test_a_summary_of_a_running_job(record, read):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.record_event(
        "job", 1, "info", "training_started", "…", {"trainable_parameters": 20, "total_parameters": 1000}
    )
    facts = {"loss": 2.5, "tokens_per_s": 100.0, "eta_s": 9.0, "phase": None}
    record.record_progress(Claim("job", 1, WORKER), {"step": 3, "steps": 30, "progress": facts})
    job = read("job_detail", "job").plain()
    said = {
        "id": "job", "status": "running", "stage": "train", "step": 3, "steps": 30, "error": None, "reason": "",
        "tenant": "acme", "user": "ada", "gpu": "auto", "gpu_type": "cpu", "attempt": 1, "base_model": "tiny",
        "loss": 2.5, "tokens_per_s": 100.0, "eta_s": 9.0, "progress": facts, "metrics": None, "adapter": None,
        "worker": WORKER, "queue": "gpu.cpu", "trainable_parameters": 20, "trainable_share": 0.02, "cost": 0.0,
        "gpu_seconds": 0.0, "warnings": [], "finished_at": None, "wait_reason": "",
    }  # fmt: skip
    assert {name: job[name] for name in said} == said
    assert type(job["status"]) is str
    assert set(job["stage_seconds"]) == {"prepare"}
    assert job["created_at"].tzinfo is UTC
    assert job["created_at"] <= job["started_at"]


def test_a_summary_of_a_completed_job(record, read):
    record.bring(Status.RUNNING, Stage.PUBLISH)
    record.advance(Claim("job", 1, WORKER), "publish", {"result": {"train_loss": 0.5}, "adapter": ADAPTER})
    job = read("job_detail", "job").plain()
    assert (job["status"], job["adapter"], job["name"], job["loss"]) == ("completed", "file:///a", "tiny-1", 0.5)
    assert (job["tokens_per_s"], job["eta_s"], job["worker"]) == (None, None, None)
    assert list(job["stage_seconds"]) == ["prepare", "train", "evaluate", "publish"]
    assert job["finished_at"] >= job["started_at"]


def test_the_time_of_a_stage_is_summed_over_attempts(record, read):
    record.new()
    for seconds in (2.0, 3.5):
        record.record_event("job", 1, "info", "stage_finished", "", {"stage": "train", "seconds": seconds})
    assert read("job_detail", "job").stage_seconds == {"train": 5.5}


def test_json_with_nul_and_surrogates_of_an_older_version_breaks_no_read(record, read):
    record.new()
    stored = literal_column(r"""'{"stage": "train", "seconds": 2.5, "error": {"message": "a\u0000b\ud800c"}}'""")
    columns = ("error", "progress", "result", "metrics", "evaluation", "summary", "prepared", "base")
    for kind in ("retrying", "note"):
        record.record_event("job", 1, "info", kind, "", None)
    with record.database.transaction(Scope.everything) as session:
        session.execute(update(Event).where(Event.kind.in_(("retrying", "note"))).values(data=stored))
        session.execute(update(Job).values(dict.fromkeys(columns, stored)))
    assert read("job_detail", "job").stage_seconds == {"train": 2.5}
    assert len(read("events", "job")) == 3
    assert len(read("list_jobs")) == 1


def test_a_job_is_found_by_the_beginning_of_its_id(record, read):
    for job_id in ("abc-1", "abc-2", "xyz_1", "xyz%1"):
        record.new(job_id)
    assert read("find", "abc-1").id == "abc-1"
    assert read("find", "xyz_").id == "xyz_1"
    with pytest.raises(NotFoundError, match=r"more than one job: abc-1, abc-2\."):
        read("find", "abc")
    for unknown in ("ABC-1", "nothing", ""):
        with pytest.raises(NotFoundError, match="there is no job"):
            read("find", unknown)


def test_every_read_of_a_job_knows_tenants(record, read):
    record.new(tenant="acme")
    for name in ("job_detail", "events", "metric_points", "find"):
        assert read(name, "job", tenant="acme") is not None
        with pytest.raises(NotFoundError):
            read(name, "job", tenant="other")
    assert read("list_jobs", tenant="other") == []


def test_jobs_are_listed_newest_first_page_by_page(record, read):
    for number in range(5):
        record.new(f"job{number}", tenant="acme" if number % 2 else "bolt")
    record.request_cancel("job3")
    assert [job.id for job in read("list_jobs")] == ["job4", "job3", "job2", "job1", "job0"]
    first = read("list_jobs", limit=2)
    assert [job.id for job in read("list_jobs", limit=2, after=first[-1].id)] == ["job2", "job1"]
    assert [job.id for job in read("list_jobs", tenant="acme")] == ["job3", "job1"]
    assert [job.id for job in read("list_jobs", status=Status.CANCELLED)] == ["job3"]
    assert [job.id for job in read("list_jobs", status="pending", limit=1)] == ["job4"]


def test_events_come_in_order_and_from_a_point_on(record, read):
    record.bring(Status.RUNNING)
    events = read("events", "job")
    assert [event["kind"] for event in events] == ["submitted", "queued", "stage_started"]
    assert [event["kind"] for event in read("events", "job", after_id=events[1]["id"])] == ["stage_started"]
    assert set(events[0]) == {"id", "job_id", "attempt", "at", "level", "kind", "message", "data"}


def test_of_a_step_done_twice_the_later_attempts_measurement_counts(record, read):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.record_metric_points(Claim("job", 1, WORKER), [{"step": step, "train_loss": 9.0} for step in (1, 2, 3)])
    record.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    record.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 2, Stage.TRAIN, worker_id=OTHER, lease_s=90)
    record.record_metric_points(Claim("job", 2, OTHER), [{"step": 2, "train_loss": 1.0}])
    found = [(point["step"], point["train_loss"], point["attempt"]) for point in read("metric_points", "job")]
    assert found == [(1, 9.0, 1), (2, 1.0, 2), (3, 9.0, 1)]


def test_a_long_curve_is_reduced_to_the_last_point_of_equal_spans(record, read):
    record.bring(Status.RUNNING, Stage.TRAIN)
    points = [{"step": step, "train_loss": float(step)} for step in range(1, 1001)]
    assert record.record_metric_points(Claim("job", 1, WORKER), points)
    steps = [point["step"] for point in read("metric_series", "job", most=10)]
    assert steps == [100, 201, 302, 403, 504, 605, 706, 807, 908, 1000]
    assert [point["step"] for point in read("metric_series", "job", most=5000)] == list(range(1, 1001))
    record.release(Claim("job", 1, WORKER), Reason.PREEMPTED)
    record.send("job", 2, Stage.TRAIN, queue="gpu.cpu", gpu_type="cpu")
    record.claim("job", 2, Stage.TRAIN, worker_id=OTHER, lease_s=90)
    record.record_metric_points(Claim("job", 2, OTHER), [{"step": 50, "train_loss": 7.0}])
    found = [(point["step"], point["attempt"]) for point in read("metric_series", "job", most=10)]
    assert (found[0], found[1], len(found)) == ((50, 2), (201, 1), 10)
    record.new("other")
    assert read("metric_series", "other", most=10) == []


def test_adapters_are_listed(record, read):
    record.bring(Status.RUNNING, Stage.PUBLISH)
    record.advance(Claim("job", 1, WORKER), "publish", {"adapter": ADAPTER})
    (adapter,) = read("adapters", tenant="acme")
    assert (adapter["id"], adapter["name"], adapter["rank"], adapter["size_bytes"]) == ("job", "tiny-1", 16, None)
    assert read("adapters", tenant="other") == []


def test_workers_are_listed_with_what_they_run(record, read):
    record.register(WORKER, kind="gpu", gpu_type="cpu", queues=["gpu.cpu"], **FACTS)
    record.bring(Status.RUNNING)
    (worker,) = read("workers")
    assert (worker["id"], worker["status"], worker["jobs"], worker["slots"]) == (WORKER, "online", ["job"], 1)


def test_queues_tell_what_waits_runs_and_is_free(record, read):
    record.register("celora@here", kind="control", queues=["celora"], **FACTS)
    record.register("prep@here", kind="prep", queues=["prep"], slots=2, **FACTS)
    record.register(WORKER, kind="gpu", gpu_type="cpu", queues=["gpu.cpu"], **FACTS)
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.new("waits")
    for job_id, wanted in (("auto", "auto"), ("big", "h100")):
        record.new(job_id, gpu=wanted)
        record.send(job_id, 1, "prepare", queue="prep")
        record.claim(job_id, 1, "prepare", worker_id="prep@here", lease_s=90)
        record.advance(Claim(job_id, 1, "prep@here"), "prepare", {})
    found = {row["queue"]: (row["waiting"], row["running"], row["free"]) for row in read("queues")}
    assert found == {"celora": (0, 0, 1), "prep": (1, 0, 2), "gpu.cpu": (1, 1, 0), "gpu.h100": (1, 0, 0)}


def test_a_job_for_any_gpu_waits_under_auto_where_there_are_several(record, read):
    record.register("t4-0@a", kind="gpu", gpu_type="t4", queues=["gpu.t4"], **FACTS)
    record.register("l4-0@a", kind="gpu", gpu_type="l4", queues=["gpu.l4"], **FACTS)
    record.bring(Status.PENDING, Stage.TRAIN)
    found = {row["queue"]: row["waiting"] for row in read("queues")}
    assert found["gpu.auto"] == 1


def test_what_was_sent_long_ago_and_never_claimed_is_found(record, read):
    record.bring(Status.QUEUED)
    assert [job.id for job in read("undelivered", -1)] == ["job"]
    assert read("undelivered", 60) == []
    record.claim("job", 1, "prepare", worker_id=WORKER, lease_s=90)
    assert read("undelivered", -1) == []


def test_the_stage_after_a_finished_one_is_found_when_it_was_never_sent(record, read):
    record.bring(Status.QUEUED, Stage.EVALUATE)
    assert [job.stage for job in read("undelivered", -1)] == [Stage.EVALUATE]


def test_ends_that_nobody_was_told_of_are_found(record, read):
    for job_id in ("first", "second"):
        record.new(job_id)
        record.request_cancel(job_id)
    assert read("unannounced") == ["first", "second"]
    record.claim_announcement("first", 30)
    assert read("unannounced") == ["second"]
    record.claim_announcement("second", 30)
    record.mark_announced("second")
    assert read("unannounced") == []
