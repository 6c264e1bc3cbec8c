"""Which worker may read which queue."""

import pytest

from celora.settings.errors import SettingsError
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
