"""Whose memory is on a device, from NVML's figures as they come on bare metal, in containers and on slices."""

import os
import subprocess
import sys
import types

import pytest

from celora.workers import gpu, gpu_memory
from celora.workers.gpu import Reading
from celora.workers.gpu_memory import foreign_bytes, held_by_others, own_processes

GIB = 2**30
OURS, THEIRS = 10, 99


def reading(used, *processes):
    return Reading(used_bytes=used, processes=processes)


@pytest.mark.parametrize(
    ("found", "busy", "others"),
    [
        (reading(0), False, 0),
        (reading(5 * GIB), False, 5 * GIB),  # a container: nobody is named
        (reading(5 * GIB, (THEIRS, 5 * GIB)), False, 5 * GIB),
        (reading(5 * GIB, (THEIRS, None)), False, 5 * GIB),
        (reading(3 * GIB, (OURS, 3 * GIB)), False, 0),  # a trainer that is about to go
        (reading(9 * GIB, (OURS, 4 * GIB), (THEIRS, 5 * GIB)), True, 5 * GIB),
        (reading(4 * GIB, (OURS, 4 * GIB)), True, 0),
        (reading(9 * GIB), True, None),  # ours runs and nobody is named: no telling
        (reading(9 * GIB, (THEIRS, 9 * GIB)), True, None),  # ours runs under another number
        (reading(9 * GIB, (OURS, None), (THEIRS, 5 * GIB)), True, None),
    ],
)
def test_what_is_not_known_to_be_ours_is_theirs_unless_ours_hides_it(found, busy, others):
    assert foreign_bytes(found, {OURS, 11}, busy=busy) == others


HOST = 12


@pytest.mark.parametrize(
    ("found", "busy", "others"),
    [
        (reading(5 * GIB), False, 0),  # a container: the host's own word is all there is
        (reading(9 * GIB), False, 4 * GIB),
        (reading(9 * GIB, (HOST, 5 * GIB), (THEIRS, 4 * GIB)), False, 4 * GIB),
        (reading(4 * GIB, (HOST, 4 * GIB)), False, 0),
        (reading(9 * GIB, (HOST, None), (THEIRS, 4 * GIB)), False, 4 * GIB),
        (reading(9 * GIB, (HOST, 5 * GIB), (THEIRS, 4 * GIB)), True, 4 * GIB),
    ],
)
def test_the_base_of_an_idle_trainer_host_is_ours(found, busy, others):
    assert foreign_bytes(found, {OURS, HOST}, busy=busy, host=HOST, hidden_bytes=5 * GIB) == others


def test_a_host_that_another_process_started_is_ours_too(nvml):
    nvml.used, nvml.compute = 5 * GIB, ((HOST, 5 * GIB),)
    assert held_by_others("GPU-1", busy=False) == 5 * GIB
    assert held_by_others("GPU-1", busy=False, host=HOST, host_bytes=4 * GIB) == 0


class FakeNvml(types.SimpleNamespace):
    """One card, answered as pynvml does."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818
        pass

    class NVMLError_NoPermission(NVMLError):  # noqa: N801, N818
        pass

    nvmlMemory_v2 = 2  # noqa: N815
    used, compute, graphics, shut = 5 * GIB, (), (), 0

    def nvmlShutdown(self):  # noqa: N802
        self.shut += 1

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != "GPU-1":
            raise self.NVMLError("not found")
        return uuid

    def nvmlDeviceGetMemoryInfo(self, _handle, version):  # noqa: N802
        assert version == self.nvmlMemory_v2
        return types.SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, _handle):  # noqa: N802
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in self.compute]

    def nvmlDeviceGetGraphicsRunningProcesses(self, _handle):  # noqa: N802
        if self.graphics is None:
            raise self.NVMLError_NotSupported
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in self.graphics]


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setattr(gpu, "_nvml", lambda: fake)
    return fake


def test_a_reading_holds_compute_and_graphics_processes_each_once(nvml):
    nvml.compute, nvml.graphics = ((1, GIB), (2, 2 * GIB)), ((2, 2 * GIB), (3, None))
    assert gpu.reading("GPU-1") == reading(5 * GIB, (1, GIB), (2, 2 * GIB), (3, None))
    assert nvml.shut == 1


def test_a_slice_that_tells_no_processes_is_read_all_the_same(nvml):
    nvml.graphics = None
    assert held_by_others("GPU-1", busy=False) == 5 * GIB


def test_a_driver_that_does_not_answer_leaves_it_unknown(nvml, caplog):
    assert held_by_others("GPU-2", busy=False) is None
    assert "nvidia-smi" in caplog.text
    assert nvml.shut == 1


def test_on_a_cpu_there_is_nothing_to_ask(monkeypatch):
    monkeypatch.setattr(gpu_memory, "reading", lambda _: pytest.fail("asked"))
    assert held_by_others("", busy=False) is None


def test_a_machine_without_a_driver_knows_nothing(monkeypatch):
    monkeypatch.setattr(gpu, "_nvml", lambda: None)
    assert held_by_others("GPU-1", busy=False) is None


def test_our_processes_are_this_one_and_all_below_it():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        assert {os.getpid(), child.pid} <= own_processes()
        assert 1 not in own_processes()
    finally:
        child.communicate(b"\n")
