"""The cores of a machine are shared by the trainers that may run on it."""

import os
import platform

import pytest
from records import Verbs

from celora.models.scope.scope import Scope
from celora.settings.settings import get_settings
from celora.workers.trainer import threads
from celora.workers.trainer.threads import share, trainer_threads, usable_cores


@pytest.mark.parametrize(
    ("usable", "cores", "runs", "found"),
    [(8, 8, 1, 0), (8, 8, 3, 2), (8, 8, 16, 1), (2, 64, 1, 2), (2, 64, 2, 1)],
)
def test_a_run_has_its_share_of_the_cores_and_one_alone_has_all(usable, cores, runs, found):
    assert share(usable, cores, runs) == found


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4), ("x y", 4)],
)
def test_the_limit_of_a_container_counts_and_part_of_a_core_is_one(tmp_path, monkeypatch, limit, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    (tmp_path / "cpu.max").write_text(limit)
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "none") == 4


@pytest.fixture
def threads_here(database, home, monkeypatch):
    """The threads of a trainer on a machine with eight cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)

    def read():
        get_settings.cache_clear()
        with database.session(Scope.everything) as session:
            return trainer_threads(session, get_settings())

    return read


def test_the_workers_of_this_machine_that_train_are_counted_and_no_others(database, threads_here):
    assert threads_here() == 0
    record = Verbs(database)
    for name, host, kind, slots in (
        ("cpu-0@a", platform.node(), "gpu", 2),
        ("cpu-1@a", platform.node(), "gpu", 1),
        ("prep@a", platform.node(), "prep", 4),
        ("cpu-0@b", "elsewhere", "gpu", 4),
    ):
        record.register(name, host=host, kind=kind, gpu_type="cpu", pid=1, queues=["q"], slots=slots)
    assert threads_here() == 2
    record.mark_offline("cpu-1@a")
    assert threads_here() == 4
    record.register("h100-0@a", host=platform.node(), kind="gpu", gpu_type="h100", pid=2, queues=["q"], slots=4,
                    device_index=0)  # fmt: skip
    assert threads_here() == 2, "the runs of a device take turns, so they count once"


def test_what_the_operator_set_wins(threads_here, monkeypatch):
    monkeypatch.setenv("CELORA_TRAINER_THREADS", "5")
    assert threads_here() == 5
    monkeypatch.setenv("CELORA_TRAINER_THREADS", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_here() == 0
