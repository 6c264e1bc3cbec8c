"""Workers and datasets that register."""

import pytest

from celora.models.registry import obstacle
from celora.models.states import Stage, Status
from celora.models.tables import Worker

FACTS = {"host": "here", "kind": "gpu", "pid": 1, "queues": ["gpu.cpu"]}


@pytest.fixture
def worker(record):
    def found(name="cpu-0@here"):
        with record.database.session() as session:
            return session.get(Worker, name)

    return found


def test_a_worker_comes_is_seen_and_goes(record, worker):
    assert not record.seen("cpu-0@here")
    record.register("cpu-0@here", **FACTS)
    first = worker().last_seen_at
    assert record.seen("cpu-0@here")
    assert worker().last_seen_at > first
    assert record.gone("cpu-0@here")
    assert worker().status == "offline"
    assert not record.gone("nobody")


def test_a_worker_that_comes_again_is_the_same_row(record, worker):
    record.register("cpu-0@here", **FACTS)
    record.gone("cpu-0@here")
    record.register("cpu-0@here", **{**FACTS, "pid": 2})
    assert (worker().status, worker().pid) == ("online", 2)


def test_a_draining_worker_drains_on_while_it_is_seen(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.drain("cpu-0@here")
    record.seen("cpu-0@here")
    assert worker().status == "draining"


def test_silent_workers_are_marked_and_come_back_with_their_next_sign(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.silence(60) == []
    assert record.silence(-1) == ["cpu-0@here"]
    assert record.silence(-1) == []
    assert worker().status == "offline"
    record.seen("cpu-0@here")
    assert worker().status == "online"


def test_the_same_content_under_a_name_is_one_version(record):
    def version(digit, name="faq"):
        row = record.register_dataset(tenant="acme", name=name, sha256=digit * 64, uri="u", size_bytes=1, rows=2)
        return row.version

    assert [version("a"), version("b"), version("a"), version("c")] == [1, 2, 1, 3]
    assert version("b", name="other") == 1


GIB = 2**30


def test_a_cordon_outlives_a_restart_and_its_note_too(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.cordon("cpu-0@here", "Ada needs it")
    record.gone("cpu-0@here")
    record.register("cpu-0@here", **FACTS)
    assert obstacle(worker(), GIB) == "cordoned: Ada needs it"
    assert record.uncordon("cpu-0@here")
    assert obstacle(worker(), GIB) == ""
    record.cordon("cpu-0@here")
    assert obstacle(worker(), GIB) == "cordoned"


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "ask_drain", "drain", "gone"])
def test_a_worker_that_never_registered_is_none(record, verb):
    assert not getattr(record, verb)("nobody")
    assert record.device_fault("nobody", "x") == 0


def test_two_device_errors_in_a_row_make_a_worker_unhealthy(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.device_fault("cpu-0@here", "CUDA error: first") == 1
    assert obstacle(worker(), GIB) == ""
    assert record.device_fault("cpu-0@here", "CUDA error: second") == 2
    assert obstacle(worker(), GIB) == "unhealthy: 2 device errors in a row; last: CUDA error: second"
    record.seen("cpu-0@here")
    assert worker().health == "unhealthy"


def test_a_restart_or_a_persons_word_makes_an_unhealthy_worker_trusted_again(record, worker):
    for again in (lambda: record.register("cpu-0@here", **FACTS), lambda: record.uncordon("cpu-0@here")):
        record.register("cpu-0@here", **FACTS)
        record.device_fault("cpu-0@here", "one")
        record.device_fault("cpu-0@here", "two")
        assert worker().health == "unhealthy"
        again()
        assert (worker().health, worker().device_faults, worker().note) == ("ok", 0, None)


@pytest.mark.parametrize("stage", [Stage.TRAIN, Stage.EVALUATE])
def test_a_stage_that_goes_well_on_a_device_forgets_its_error(record, worker, stage):
    record.register("cpu-0@here", **FACTS)
    record.device_fault("cpu-0@here", "one")
    record.bring(Status.RUNNING, stage)
    record.advance("job", 1, stage, worker_id="cpu-0@here", values={})
    assert worker().device_faults == 0
    assert record.device_fault("cpu-0@here", "another, much later") == 1


def test_what_needs_no_device_says_nothing_about_it(record, worker):
    record.register("cpu-0@here", **FACTS)
    record.device_fault("cpu-0@here", "one")
    record.bring(Status.RUNNING, Stage.PREPARE)
    record.advance("job", 1, Stage.PREPARE, worker_id="cpu-0@here", values={})
    assert worker().device_faults == 1


def test_a_wish_to_drain_ends_with_the_restart(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.ask_drain("cpu-0@here")
    assert record.seen("cpu-0@here").drain_asked
    record.register("cpu-0@here", **FACTS)
    assert not worker().drain_asked


@pytest.mark.parametrize(
    ("foreign_bytes", "told"),
    [(None, ""), (GIB, ""), (GIB + 1, "somebody else holds 1.0 GiB of its device's memory"), (0, "")],
)
def test_somebody_elses_memory_is_an_obstacle_above_the_limit(record, worker, foreign_bytes, told):
    record.register("cpu-0@here", **FACTS)
    record.seen("cpu-0@here", foreign_bytes=foreign_bytes)
    assert obstacle(worker(), GIB) == told


def test_memory_that_was_freed_is_forgotten_with_the_next_sign(record, worker):
    record.register("cpu-0@here", **FACTS)
    record.seen("cpu-0@here", foreign_bytes=5 * GIB)
    assert "5.0 GiB" in obstacle(worker(), GIB)
    record.seen("cpu-0@here", foreign_bytes=0)
    assert obstacle(worker(), GIB) == ""


@pytest.mark.parametrize(("verb", "told"), [("drain", "draining"), ("gone", "offline")])
def test_a_worker_that_leaves_takes_no_work_whatever_else_it_is(record, worker, verb, told):
    record.register("cpu-0@here", **FACTS)
    record.cordon("cpu-0@here", "note")
    getattr(record, verb)("cpu-0@here")
    assert obstacle(worker(), GIB) == told
