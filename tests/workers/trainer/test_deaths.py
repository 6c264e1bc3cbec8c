"""How the end of a trainer is described, alone in its process or beside others in a host."""

import re
import signal

import pytest

from celora.tuning.trainer.host_messages import ExitReport
from celora.workers.trainer.deaths import death, host_death, out_of_time, stalled


@pytest.mark.parametrize(
    ("code", "tail", "kind", "says"),
    [
        (-signal.SIGXCPU, "", "data_limit", "used up its CPU time .*tokenize train.*"),
        (-signal.SIGALRM, "", "data_limit", "stuck in one step .*tokenize train"),
        (-signal.SIGABRT, "memory allocation of 524288 bytes failed", "data_limit", "ran out of the memory"),
        (-signal.SIGABRT, "Fatal Python error: Aborted", "killed", "ended by signal 6"),
        (-signal.SIGKILL, "", "killed", "ended by signal 9"),
        (3, "", "internal", "exit code 3"),
        (1, "Error out of memory at line 380 in file /src/pythonInterface.cpp", "out_of_memory", "died .*: Error out"),
    ],
)
def test_the_kernels_limits_are_told_from_other_deaths(code, tail, kind, says):
    told = death(code, "tokenize train", tail)
    assert told["code"] == kind
    assert re.search(says, told["message"])


def test_a_kill_that_the_memory_limit_counted_is_told_as_such():
    told = death(-signal.SIGKILL, "training", "", 1)
    assert told["code"] == "host_out_of_memory"
    assert "training" in told["message"]
    assert death(-signal.SIGTERM, "training", "", 1)["code"] == "killed"


def test_a_stall_and_a_limit_name_what_the_trainer_did_and_what_is_kept():
    assert "while it did: loading" in stalled(90, "loading")["message"]
    assert out_of_time("", 7)["message"] == "the job used up its time; its checkpoint of step 7 is kept."


def killed(*runs, oom_kills=0):
    return ExitReport(generation="g", code=None, signal=signal.SIGKILL, oom_kills=oom_kills, runs=list(runs))


@pytest.mark.parametrize("inside", [(), ("j:1",)])
def test_a_run_that_was_alone_in_its_host_ends_like_a_process(inside):
    told = host_death(killed(*inside, oom_kills=1), "j:1", "training", "")
    assert (told["code"], told["facts"]) == ("host_out_of_memory", {"host": "g"})


@pytest.mark.parametrize("inside", [("j:1", "k:2"), ("k:2",)])
def test_a_run_with_another_beside_it_is_told_so_and_what_the_crash_was(inside):
    told = host_death(killed(*inside), "j:1", "training", "CUDA error: unspecified launch failure", why="a run hung")
    assert (told["code"], told["facts"]) == ("host_lost", {"host": "g", "cause": "device"})
    assert "(a run hung) while this run and 1 other were inside" in told["message"]


def test_an_exit_code_is_told_where_no_signal_ended_the_host():
    report = ExitReport(generation="g", code=71, signal=None, runs=["j:1", "k:1", "l:1"])
    assert "(exit code 71) while this run and 2 others" in host_death(report, "j:1", "", "")["message"]
