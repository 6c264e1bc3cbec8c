"""What a trainer's death means, told from its signal and the end of its log."""

import re
import signal

import pytest

from celora.workers.supervisor import _death


@pytest.mark.parametrize(
    ("code", "tail", "kind", "says"),
    [
        (-signal.SIGXCPU, "", "data_limit", "used up its CPU time .*tokenize train.*"),
        (-signal.SIGALRM, "", "data_limit", "stuck in one step .*tokenize train"),
        (-signal.SIGABRT, "memory allocation of 524288 bytes failed", "data_limit", "ran out of the memory"),
        (-signal.SIGABRT, "Fatal Python error: Aborted", "killed", "ended by signal 6"),
        (-signal.SIGKILL, "", "killed", "ended by signal 9"),
        (3, "", "internal", "exit code 3"),
    ],
)
def test_the_kernels_limits_are_told_from_other_deaths(code, tail, kind, says):
    told = _death(code, "tokenize train", tail)
    assert told["code"] == kind
    assert told["hint"]
    assert re.search(says, told["message"])
