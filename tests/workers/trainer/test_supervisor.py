"""A trainer that outstays its time, hangs or dies: what the supervisor does, and what it tells."""

import signal
import sys
import textwrap
from functools import partial
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, ConfigDict

from celora.models.rows import Claim
from celora.workers.trainer import process, supervisor
from celora.workers.trainer.supervisor import Drained, Limits, TrainerError, supervise


class Request(BaseModel):
    job: str = "j"


class Answer(BaseModel):
    """Whatever the program answers."""

    model_config = ConfigDict(extra="allow")


@pytest.fixture
def run(tmp_path, monkeypatch, request):
    """Supervise a program that speaks the trainer's protocol; its lines stand between start and end."""

    def begin(lines, *, grace_s=20.0, limits=supervisor.NO_LIMITS, pausing=False, **options):
        program = tmp_path / "program.py"
        head = """
            import faulthandler, json, os, signal, sys, time
            faulthandler.register(signal.SIGUSR1, all_threads=True)
            fd = int(sys.argv[-1])
            def tell(event, **facts):
                os.write(fd, json.dumps({"event": event, **facts}).encode() + b"\\n")
            def on_sigterm(handler):
                signal.signal(signal.SIGTERM, handler)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            sys.stdin.readline()
        """
        program.write_text(textwrap.dedent(head) + textwrap.dedent(lines))
        monkeypatch.setattr(process, "PROGRAM", (str(program),))
        # The program inherits the mask: a SIGTERM that is earlier than its handler waits for it.
        request.addfinalizer(partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM}))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        lease = SimpleNamespace(claim=Claim("j", 1, "w"), lost=False, cancel_requested=False, pause_requested=pausing)
        return supervise(
            Request(),
            Answer,
            log=tmp_path / "log",
            environment={"PYTHONPATH": ":".join(sys.path)},
            lease=lease,
            on_event=options.pop("on_event", lambda _: None),
            draining=lambda: False,
            cancelling=lambda: False,
            grace_s=grace_s,
            limits=limits,
            **options,
        )

    return begin


LEAVES = """
    def leave(*_):
        tell("drained", step=7)
        os._exit(75)
    on_sigterm(leave)
"""
HANGS = """
    tell("progress", step=1)
    tell("progress", step=2)
    def hang_here():
        time.sleep(600)
    hang_here()
"""


def test_a_pause_stops_the_trainer_at_its_next_step(run):
    with pytest.raises(Drained) as ended:
        run(LEAVES + HANGS, pausing=True)
    assert ended.value.step == 7


def test_at_its_time_limit_the_trainer_checkpoints_and_the_error_says_which_limit(run):
    with pytest.raises(TrainerError) as ended:
        run(LEAVES + HANGS, limits=Limits(runs_s=0.1, words="its 3 min of training"))
    assert ended.value.error["code"] == "time_limit"
    assert ended.value.error["message"] == "the job used up its 3 min of training; its checkpoint of step 7 is kept."


def test_a_trainer_that_hangs_leaves_its_stacks_in_the_log_and_is_killed(run, monkeypatch):
    monkeypatch.setattr(supervisor, "DUMP_S", 0.5)
    with pytest.raises(TrainerError) as ended:
        run(HANGS, limits=Limits(stall_s=0.3))
    assert ended.value.error["code"] == "stalled"
    assert "hang_here" in ended.value.error["log_tail"]


def test_one_that_finishes_in_its_grace_is_done_all_the_same(run):
    lines = """
        on_sigterm(lambda *_: (tell("done", result={"steps": 9}), os._exit(0)))
        time.sleep(600)
    """
    assert run(lines, limits=Limits(runs_s=0.1)).model_dump() == {"steps": 9}


def test_an_error_during_the_grace_is_told_as_that_error(run):
    lines = """
        error = {"code": "disk_full", "message": "no space", "hint": ""}
        on_sigterm(lambda *_: (tell("failed", error=error), os._exit(73)))
        time.sleep(600)
    """
    with pytest.raises(TrainerError) as ended:
        run(lines, limits=Limits(runs_s=0.1))
    assert ended.value.error["code"] == "disk_full"


def test_a_trainer_hears_that_its_checkpoint_is_put_away_from_whoever_did_it(run):
    ends = """
        tell("checkpoint", job="j", step=25, path="p", size_bytes=1)
        heard = json.loads(sys.stdin.readline())
        tell("done", result=heard)
    """
    trainers = []

    def put_away(event):
        trainers[0].kept(event)

    answer = run(ends, on_event=put_away, started=trainers.append)
    assert answer.model_dump() == {"op": "kept", "job": "j", "step": 25}
