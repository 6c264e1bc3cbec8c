"""Events in the words that scripts parse, newest first, measurements among them."""

from datetime import timedelta

import pytest
from moved_job import Moved
from sqlalchemy import event

from celora.errors import RequestError
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.states import Stage
from celora.models.tables import Event, MetricPoint
from celora.services.openai import checkpoints, events, jobs

POINTS = [{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.5, "eval_loss": 1.756}]


def read(job_id, tenant="default", **options):
    return events.page(tenant, job_id, **{"after": None, "limit": 100, **options})


def test_a_finished_job_reads_as_scripts_expect(create, installation):
    training = create()
    Moved(installation, training).complete(POINTS)
    found, more = read(training)
    model, file_id = jobs.find("default", training).model_id, jobs.find("default", training).training_file
    assert not more
    assert [event.message for event in reversed(found)] == [
        f"Created fine-tuning job: {training}",
        f"Validating training file: {file_id}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Step 1/2: training loss=2.00",
        "Step 2/2: training loss=1.50, validation loss=1.76",
        "Training finished, evaluating the model",
        f"New fine-tuned model created: {model}",
        "The job has successfully completed",
    ]
    metrics = [event for event in found if event.kind == "metrics"]
    assert metrics[0].data == {"step": 2, "total_steps": 2, "train_loss": 1.5, "valid_loss": 1.756,
                                   "full_valid_loss": 1.756}  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_hold_each_event_once(create, installation, limit):
    job_id = create()
    Moved(installation, job_id).complete([{"step": step, "train_loss": 1.0} for step in range(1, 12)])
    whole, _ = read(job_id)
    paged, after, more = [], None, True
    while more:
        found, more = read(job_id, after=after, limit=limit)
        paged += found
        after = found[-1].id
    assert [event.id for event in paged] == [event.id for event in whole]
    assert len(whole) == 7 + 11


@pytest.mark.parametrize("limit", [1, 3, 4])
def test_pages_are_ordered_by_time_where_attempts_and_messages_overlap(on_both, create, limit):
    job_id, record = create(), on_both
    moved = Moved(record, job_id)
    for stage in (Stage.PREPARE, Stage.TRAIN):
        moved.begin(stage)
        if stage is Stage.PREPARE:
            moved.finish(stage, base={"name": "tiny", "revision": "r1"})
    with record.transaction(Scope.everything) as session:
        start = record.now(session) + timedelta(hours=1)
        for attempt, step, minute in ((1, 1, 0), (1, 2, 1), (1, 3, 2), (2, 2, 2), (2, 3, 4), (1, 4, 4)):
            at = start + timedelta(minutes=minute)
            session.add(MetricPoint(job_id=job_id, attempt=attempt, step=step, at=at, train_loss=1.0))
        for kind, minute in (("retrying", 2), ("stage_started", 3), ("unpaused", 2), ("worker_lost", 4)):
            at, data = start + timedelta(minutes=minute), {"stage": "publish"}
            session.add(Event(job_id=job_id, attempt=1, at=at, level="info", kind=kind, message="", data=data))
    whole = [event.id for event in read(job_id)[0]]
    marks = [one[8:] if one.startswith("ftevent-m") else "e" for one in whole]
    assert marks == ["e", "m2.3", "m1.4", "e", "e", "m2.2", "m1.3", "m1.2", "m1.1", *"eeee"]
    paged, after, more = [], None, True
    while more:
        found, more = read(job_id, after=after, limit=limit)
        paged += [event.id for event in found]
        after = paged[-1]
    assert paged == whole


@pytest.mark.parametrize(
    ("read_page", "sorts"),
    [
        (lambda job_id: events.page("default", job_id, after="ftevent-m1.2", limit=1), 0),
        (lambda job_id: checkpoints.page("default", job_id, after=None, limit=1), 1),  # SQLite sorts the checkpoints
    ],
)
def test_a_page_is_found_by_an_index_in_its_order(on_both, create, read_page, sorts):
    """A sort, or a scan of the job's points, would grow with the length of the history."""
    job_id = create()
    Moved(on_both, job_id).complete([{"step": step, "train_loss": 1.0} for step in range(1, 400)], checkpoints=(2, 3))
    asked = []

    def note(_connection, _cursor, words, values, *_):
        if "FROM metric_point" in words and "metric_point.train_loss" in words:
            asked.append((words, values))

    with on_both.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE metric_point")
    event.listen(get_database().engine, "before_cursor_execute", note)
    read_page(job_id)
    event.remove(get_database().engine, "before_cursor_execute", note)
    assert asked
    with get_database().engine.connect() as connection:
        how = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        plan = "\n".join(str(row) for words, values in asked
                         for row in connection.exec_driver_sql(f"{how} {words}", values))  # fmt: skip
    assert "metric_point" in plan
    assert "Seq Scan on metric_point" not in plan
    assert "Sort Key: metric_point" not in plan
    assert plan.count("TEMP B-TREE") <= sorts, plan


@pytest.mark.parametrize("cursor", ["x", "ftevent-e999999", "ftevent-m1.999", "ftevent-e", "ftevent-m1"])
def test_a_cursor_that_is_no_event_of_the_job_is_refused(create, cursor):
    with pytest.raises(RequestError) as caught:
        read(create(), after=cursor)
    assert caught.value.reason == "invalid_cursor"


def test_a_failure_names_no_folder_and_no_worker(create, installation):
    job_id = create()
    moved = Moved(installation, job_id)
    moved.begin(Stage.PREPARE)
    moved.fail("bad_data", "/srv/artifacts/datasets/3f/data.jsonl, line 2: no JSON; see s3://bucket/a/b.jsonl")
    words = " ".join(event.message for event in read(job_id)[0])
    assert "The job failed: data.jsonl, line 2: no JSON; see b.jsonl" in words
    assert "here" not in words


def test_another_tenants_events_are_not_there(create):
    with pytest.raises(RequestError, match="no job"):
        read(create(), tenant="team-b")
