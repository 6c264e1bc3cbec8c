"""Which worker may read which queue."""

import pytest
from celery import Celery
from redis import Redis

from celora.errors import SettingsError
from celora.models.states import Stage, common_queue
from celora.settings.gpus import gpu_catalogue
from celora.workers import queues

TYPES = gpu_catalogue({})


def test_there_is_one_queue_for_each_gpu_type_beside_entry_and_prep():
    names = {queue.name for queue in queues.declared(TYPES)}
    assert names == {"celora", "prep", *(f"gpu.{name}" for name in TYPES)}


@pytest.mark.parametrize("name", ["celora", "prep", "gpu.h100"])
def test_a_worker_reads_what_its_device_allows(name):
    queues.check([name], TYPES, "h100")


def test_a_queue_of_another_gpu_type_is_refused():
    with pytest.raises(SettingsError, match=r"-Q gpu.a100-80 needs a GPU of type a100-80, but .* is of type cpu"):
        queues.check(["gpu.a100-80"], TYPES, "cpu")


def test_a_queue_that_does_not_exist_is_refused_with_the_list():
    with pytest.raises(SettingsError, match=r"no queue 'gpus.h100'.*gpu.h100"):
        queues.check(["gpus.h100"], TYPES, None)


@pytest.mark.parametrize(
    ("stage", "gpu_type", "queue"),
    [
        (Stage.PREPARE, "h100", "prep"),
        (Stage.TRAIN, "h100", "gpu.h100"),
        (Stage.EVALUATE, "cpu", "gpu.cpu"),
        (Stage.PUBLISH, "h100", "celora"),
        (Stage.TRAIN, None, "celora"),
    ],
)
def test_each_stage_has_its_queue(stage, gpu_type, queue):
    assert queues.queue_of(stage, gpu_type) == queue


def test_a_gpu_queue_names_its_type_and_no_other_queue_does():
    assert queues.gpu_type_of(queues.gpu_queue("a10g")) == "a10g"
    assert queues.gpu_type_of("prep") is None


def test_messages_that_wait_are_counted_by_queue_and_a_queue_that_is_not_there_has_none(valkey):
    app = Celery(broker=valkey)
    for priority in (0, 9):
        app.send_task("x", queue="prep", priority=priority)
    assert queues.depths(app, ["prep", "gpu.h100"]) == {"prep": 2, "gpu.h100": 0}
    app.close()


def test_a_queue_that_nobody_reads_any_more_leaves_no_key_and_takes_no_other_with_it(valkey):
    app, client = Celery(broker=valkey), Redis.from_url(valkey)
    names = [queues.direct_queue("cpu", "cpu-0@gone"), queues.own_queue("cpu", "cpu-0@gone")]
    for name in (*names, "gpu.cpu"):
        for priority in (0, 9):
            app.send_task("x", queue=name, priority=priority)
    before = len(client.keys("*gone*"))
    fresh = Celery(broker=valkey)  # another process has sent the messages
    assert (before >= 6, queues.delete(fresh, names)) == (True, 4)
    assert client.keys("*gone*") == []
    assert queues.delete(fresh, names) == 0
    app.send_task("x", queue="gpu.cpu")
    assert queues.depths(fresh, ["gpu.cpu", *names]) == {"gpu.cpu": 3, **dict.fromkeys(names, 0)}
    for each in (app, fresh, client):
        each.close()


def test_a_special_worker_reads_its_own_queue_alone():
    own = queues.own_queue("h100", "h100-0@box")
    assert (queues.gpu_type_of(own), queues.worker_of(own)) == ("h100", "h100-0@box")
    assert [queues.worker_of(name) for name in ("gpu.h100", "prep", None)] == ["", "", ""]
    assert queues.queue_of(Stage.EVALUATE, "h100", "h100-0@box") == own
    assert queues.queue_of(Stage.PUBLISH, "h100", "h100-0@box") == "celora"
    queues.check([own], TYPES, "h100", worker="h100-0@box", special=True)
    with pytest.raises(SettingsError, match="the queue of every worker"):
        queues.check(["gpu.h100"], TYPES, "h100", worker="h100-0@box", special=True)
    for worker, special in (("h100-1@box", True), ("h100-0@box", False)):
        with pytest.raises(SettingsError, match="there is no queue"):
            queues.check([own], TYPES, "h100", worker=worker, special=special)


def test_a_worker_with_a_trainer_host_reads_a_direct_queue_beside_the_common_one():
    direct = queues.direct_queue("h100", "h100-0@box")
    assert (queues.gpu_type_of(direct), queues.worker_of(direct)) == ("h100", "")
    assert [queues.direct_worker_of(name) for name in (direct, "gpu.h100", "prep", None)] == ["h100-0@box", "", "", ""]
    assert queues.queue_of(Stage.TRAIN, "h100", "h100-0@box", direct=True) == direct
    assert [common_queue(name) for name in (direct, "gpu.h100", "prep")] == ["gpu.h100", "gpu.h100", "prep"]
    queues.check(["gpu.h100", direct], TYPES, "h100", worker="h100-0@box")
    with pytest.raises(SettingsError, match="there is no queue"):
        queues.check([direct], TYPES, "h100", worker="h100-1@box")
