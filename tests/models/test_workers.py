"""Workers and datasets that register."""

import pytest

from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Worker
from celora.models.workers import Resident, obstacle, warm_workers

FACTS = {"host": "here", "kind": "gpu", "pid": 1, "queues": ["gpu.cpu"]}


@pytest.fixture
def worker(record):
    def found(name="cpu-0@here"):
        with record.database.session(Scope.everything) as session:
            return session.get(Worker, name)

    return found


def test_a_worker_comes_is_seen_and_goes(record, worker):
    assert not record.record_heartbeat("cpu-0@here")
    record.register("cpu-0@here", **FACTS)
    first = worker().last_seen_at
    assert record.record_heartbeat("cpu-0@here")
    assert worker().last_seen_at > first
    assert record.mark_offline("cpu-0@here")
    assert worker().status == "offline"
    assert not record.mark_offline("nobody")


def test_a_worker_that_comes_again_is_the_same_row(record, worker):
    record.register("cpu-0@here", **FACTS)
    record.mark_offline("cpu-0@here")
    record.register("cpu-0@here", **{**FACTS, "pid": 2})
    assert (worker().status, worker().pid) == ("online", 2)


def test_a_draining_worker_drains_on_while_it_is_seen(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.drain("cpu-0@here")
    record.record_heartbeat("cpu-0@here")
    assert worker().status == "draining"


def test_silent_workers_are_marked_and_come_back_with_their_next_sign(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.mark_silent_workers_offline(60) == []
    assert record.mark_silent_workers_offline(-1) == ["cpu-0@here"]
    assert record.mark_silent_workers_offline(-1) == []
    assert worker().status == "offline"
    record.record_heartbeat("cpu-0@here")
    assert worker().status == "online"


GIB = 2**30


def test_a_cordon_outlives_a_restart_and_its_note_too(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.cordon("cpu-0@here", "Ada needs it")
    record.mark_offline("cpu-0@here")
    record.register("cpu-0@here", **FACTS)
    assert obstacle(worker(), GIB) == "cordoned: Ada needs it"
    assert record.uncordon("cpu-0@here")
    assert obstacle(worker(), GIB) == ""
    record.cordon("cpu-0@here")
    assert obstacle(worker(), GIB) == "cordoned"


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "request_drain", "drain", "mark_offline"])
def test_a_worker_that_never_registered_is_none(record, verb):
    assert not getattr(record, verb)("nobody")
    assert record.count_device_fault("nobody", "x") == 0


def test_two_device_errors_in_a_row_make_a_worker_unhealthy(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.count_device_fault("cpu-0@here", "CUDA error: first") == 1
    assert obstacle(worker(), GIB) == ""
    assert record.count_device_fault("cpu-0@here", "CUDA error: second") == 2
    assert obstacle(worker(), GIB) == "unhealthy: 2 device errors in a row; last: CUDA error: second"
    record.record_heartbeat("cpu-0@here")
    assert worker().health == "unhealthy"


def test_a_restart_or_a_persons_word_makes_an_unhealthy_worker_trusted_again(record, worker):
    for again in (lambda: record.register("cpu-0@here", **FACTS), lambda: record.uncordon("cpu-0@here")):
        record.register("cpu-0@here", **FACTS)
        record.count_device_fault("cpu-0@here", "one")
        record.count_device_fault("cpu-0@here", "two")
        assert worker().health == "unhealthy"
        again()
        assert (worker().health, worker().device_faults, worker().note) == ("ok", 0, None)


@pytest.mark.parametrize("stage", [Stage.TRAIN, Stage.EVALUATE])
def test_a_stage_that_goes_well_on_a_device_forgets_its_error(record, worker, stage):
    record.register("cpu-0@here", **FACTS)
    record.count_device_fault("cpu-0@here", "one")
    record.bring(Status.RUNNING, stage)
    record.advance(Claim("job", 1, "cpu-0@here"), stage, {})
    assert worker().device_faults == 0
    assert record.count_device_fault("cpu-0@here", "another, much later") == 1


def test_what_needs_no_device_says_nothing_about_it(record, worker):
    record.register("cpu-0@here", **FACTS)
    record.count_device_fault("cpu-0@here", "one")
    record.bring(Status.RUNNING, Stage.PREPARE)
    record.advance(Claim("job", 1, "cpu-0@here"), Stage.PREPARE, {})
    assert worker().device_faults == 1


def test_a_wish_to_drain_ends_with_the_restart(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.request_drain("cpu-0@here")
    assert record.record_heartbeat("cpu-0@here").drain_asked
    record.register("cpu-0@here", **FACTS)
    assert not worker().drain_asked


@pytest.mark.parametrize(
    ("foreign_bytes", "told"),
    [(None, ""), (GIB, ""), (GIB + 1, "somebody else holds 1.0 GiB of its device's memory"), (0, "")],
)
def test_somebody_elses_memory_is_an_obstacle_above_the_limit(record, worker, foreign_bytes, told):
    record.register("cpu-0@here", **FACTS)
    record.record_heartbeat("cpu-0@here", foreign_bytes=foreign_bytes)
    assert obstacle(worker(), GIB) == told


def test_memory_that_was_freed_is_forgotten_with_the_next_sign(record, worker):
    record.register("cpu-0@here", **FACTS)
    record.record_heartbeat("cpu-0@here", foreign_bytes=5 * GIB)
    assert "5.0 GiB" in obstacle(worker(), GIB)
    record.record_heartbeat("cpu-0@here", foreign_bytes=0)
    assert obstacle(worker(), GIB) == ""


@pytest.mark.parametrize(("verb", "told"), [("drain", "draining"), ("mark_offline", "offline")])
def test_a_worker_that_leaves_takes_no_work_whatever_else_it_is(record, worker, verb, told):
    record.register("cpu-0@here", **FACTS)
    record.cordon("cpu-0@here", "note")
    getattr(record, verb)("cpu-0@here")
    assert obstacle(worker(), GIB) == told


HOST = {"generation": "g1", "started_at": 5.0, "memory_bytes": 9, "runs": 1, "base": "llama", "revision": "r1"}


def test_what_a_workers_host_holds_is_recorded_with_its_heartbeat_and_forgotten_with_the_host(record, worker):
    queues = ["gpu.cpu", "gpu.cpu@=cpu-0@here"]
    record.register("cpu-0@here", **FACTS | {"queues": queues, "gpu_type": "cpu"})
    record.record_heartbeat("cpu-0@here", resident=Resident.model_validate(HOST))
    assert (worker().bases, worker().resident["runs"]) == (["llama@r1"], 1)
    with record.database.session(Scope.everything) as session:
        assert [tuple(one) for one in warm_workers(session, 0)] == [("cpu-0@here", "cpu", ["llama@r1"])]
    record.record_resident("cpu-0@here", Resident.model_validate(HOST | {"base": ""}))
    assert worker().bases is None
    record.record_heartbeat("cpu-0@here")
    assert worker().resident is None


def test_a_warm_worker_without_a_queue_of_its_own_cannot_be_named(record):
    record.register("cpu-0@here", **FACTS)
    record.record_resident("cpu-0@here", Resident.model_validate(HOST))
    with record.database.session(Scope.everything) as session:
        assert warm_workers(session, 0) == []


def test_one_crash_of_a_host_is_one_fault_however_many_runs_it_ends(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert [record.count_device_fault("cpu-0@here", "m", "g1") for _ in range(3)] == [1, 0, 0]
    assert worker().health == "ok"
    assert record.count_device_fault("cpu-0@here", "m", "g2") == 2
    assert worker().health == "unhealthy"


def test_a_restart_of_the_host_is_asked_for_once(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.request_host_restart("cpu-0@here")
    assert worker().host_restart_asked
    assert record.clear_host_restart("cpu-0@here")
    assert not worker().host_restart_asked
