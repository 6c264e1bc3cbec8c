"""A run in a host, under the supervisor: its endings, the host's death, and the runs that stay outside."""

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from claimed_job import BASE
from pydantic import BaseModel, ConfigDict
from waiting import until

from celora.models.rows import Claim
from celora.tuning.protocol import TrainRequest
from celora.tuning.recipe import Recipe
from celora.tuning.trainer.host_messages import Opening
from celora.workers.trainer import hosts, process
from celora.workers.trainer.hosted import HostPlan
from celora.workers.trainer.hosts import HostPlace, greeting_of
from celora.workers.trainer.supervisor import Cancelled, Drained, Limits, Lost, TrainerError, supervise

TESTS = Path(__file__).parents[2]
ALONE = """
import json, os, sys
fd = int(sys.argv[-1])
sys.stdin.readline()
os.write(fd, json.dumps({"event": "done", "result": {"process": "of its own"}}).encode() + b"\\n")
"""


class Answer(BaseModel):
    """Whatever the program answers."""

    model_config = ConfigDict(extra="allow")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place for a host, which is ended with the test; a process of its own answers at once."""
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv("MINI_HOST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setattr(hosts, "PROGRAM", (str(TESTS / "mini_host.py"),))
    (tmp_path / "alone.py").write_text(ALONE)
    monkeypatch.setattr(process, "PROGRAM", (str(tmp_path / "alone.py"),))
    made = HostPlace(
        socket=tmp_path / "run" / "host-1.sock", log=tmp_path / "host.log", owner=os.getpid(), device="cpu", idle_s=60
    )
    yield made
    hosts.end(made, hosts.LEAVE_S)
    for one in hosts._started:
        one.wait(60)
    hosts._started.clear()


@pytest.fixture
def run(place, tmp_path):
    """Supervises a run of a job in the host of the place."""

    def begin(job, *, ours=True, opening=None, lease=None, **options):
        lease = lease or SimpleNamespace(lost=False, cancel_requested=False, pause_requested=False)
        lease.claim = Claim(job, 1, "w")
        request = TrainRequest(
            job=job, attempt=1, cache_dir="c", threads=1, base=BASE, prepared_dir="p", recipe=Recipe(), seed=0,
            out_dir=str(tmp_path / "out"),
        )  # fmt: skip
        plan = HostPlan(place=place, opening=opening or Opening(), are_ours=lambda runs: ours or not runs)
        return supervise(
            request, Answer, log=tmp_path / f"{job}.log", environment={}, lease=lease, draining=lambda: False,
            cancelling=lambda: False, grace_s=options.pop("grace_s", 20.0), limits=Limits(host=plan),
            **{"on_event": lambda _: None, **options},
        )  # fmt: skip

    return begin


def in_the_host(place, job="waits"):
    greeting = greeting_of(place)
    return greeting is not None and f"{job}:1" in greeting.runs


def test_a_run_ends_in_the_host_and_the_host_stays_for_the_next(run, place, tmp_path):
    first = run("done").model_dump()["pid"]
    assert greeting_of(place).pid == first
    assert run("done").model_dump()["pid"] == first
    assert (tmp_path / "done.log").read_text() == "of the run\n" * 2


@pytest.mark.parametrize(
    "why", [{"job": "refused"}, {"job": "done", "opening": Opening(exclusive=True)},
            {"job": "done", "opening": Opening(variables=["HF_TOKEN"])}],
)  # fmt: skip
def test_a_run_that_no_host_may_carry_gets_a_process_of_its_own(run, why):
    assert run(**why).model_dump() == {"process": "of its own"}


def test_a_run_that_is_asked_to_stop_gives_its_checkpoint_back(run):
    lease = SimpleNamespace(lost=False, cancel_requested=False, pause_requested=False)

    def ask(_event):
        lease.pause_requested = True

    with pytest.raises(Drained) as ended:
        run("waits", lease=lease, on_event=ask)
    assert ended.value.step == 7


@pytest.mark.parametrize(("flag", "ending"), [("cancel_requested", Cancelled), ("lost", Lost)])
def test_a_run_that_nobody_wants_any_more_leaves_the_host_alive(run, place, flag, ending):
    lease = SimpleNamespace(lost=False, cancel_requested=False, pause_requested=False)
    with pytest.raises(ending):
        run("waits", lease=lease, on_event=lambda _: setattr(lease, flag, True))
    assert greeting_of(place).runs == []


def test_a_checkpoint_is_confirmed_with_its_attempt(run):
    trainers = []

    def confirm(_event):
        trainers[0].kept({"job": "waits", "step": 25})

    answer = run("waits", started=trainers.append, on_event=confirm).model_dump()
    assert answer == {"op": "kept", "job": "waits", "attempt": 1, "step": 25}


def test_a_run_that_kills_its_host_alone_is_told_like_the_crash_of_a_process(run, tmp_path):
    with pytest.raises(TrainerError) as ended:
        run("dies")
    assert ended.value.error["code"] == "device"
    assert "unspecified launch failure" in ended.value.error["log_tail"]
    assert "the trainer host's log" in (tmp_path / "dies.log").read_text()


def beside(run, job, **options):
    """Run a job on a thread; returns the thread and a list for its ending."""
    endings = []

    def carry():
        try:
            endings.append(run(job, **options))
        except (Cancelled, TrainerError) as ending:
            endings.append(ending)

    thread = threading.Thread(target=carry)
    thread.start()
    return thread, endings


def test_another_tenants_run_does_not_join_and_the_death_of_the_host_is_not_its_own(run, place):
    thread, endings = beside(run, "waits")
    until(lambda: in_the_host(place))
    assert run("done", ours=False).model_dump() == {"process": "of its own"}
    os.kill(greeting_of(place).pid, signal.SIGKILL)
    thread.join()
    assert endings[0].error["code"] == "killed"


def test_a_run_that_does_not_answer_ends_the_host_and_its_neighbour_learns_why(run, place):
    lease = SimpleNamespace(lost=False, cancel_requested=False, pause_requested=False)
    neighbour, endings = beside(run, "waits")
    until(lambda: in_the_host(place))
    stuck, ends = beside(run, "hangs", lease=lease, grace_s=0.2)
    until(lambda: in_the_host(place, "hangs"))
    lease.cancel_requested = True
    stuck.join()
    neighbour.join()
    assert isinstance(ends[0], Cancelled)
    error = endings[0].error
    assert (error["code"], error["facts"]["cause"]) == ("host_lost", "killed")
    assert "(a run did not answer in its grace) while this run and 1 other were inside" in error["message"]
