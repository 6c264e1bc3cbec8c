"""Describes how a trainer ended when it reported no ending itself: the error's code, its message and a hint.

A run in a trainer host may die by a neighbour's fault. The host's death names the runs that were inside: the crash of a
run that was alone is described like the crash of a process, and several runs share the code ``host_lost``, which costs
none of them an attempt.
"""

import re
import signal
from typing import Any

from ...errors import LimitError
from ...tuning.failures import kind_of_log
from ...tuning.trainer.host_messages import ExitReport

HOST_LOST = "host_lost"
"""Code of a run that ended because its host died while other runs were inside."""
GENERATION = "host"
"""Fact of an error: the generation of the host in which it occurred, so that one crash counts once."""
CAUSE = "cause"
"""Fact of ``host_lost``: the code that the crash would have in a process of its own."""

Ending = dict[str, Any]
"""An error as the record keeps it: code, message, hint, and facts."""


def stalled(silent_s: float, phase: str) -> Ending:
    """Describe a run that was ended because it made no progress."""
    return {
        "code": "stalled",
        "message": f"the trainer gave no sign of progress for {silent_s / 60:.1f} min (while it did: "
        f"{phase or 'start'}); the stacks of all its threads are in the job's log.",
        "hint": "",
    }


def out_of_time(words: str, step: int | None) -> Ending:
    """Describe a run that was ended at a limit of its time, and the checkpoint that is kept."""
    reached = f"; its checkpoint of step {step} is kept" if step else ""
    return {
        "code": "time_limit",
        "message": f"the job used up {words or 'its time'}{reached}.",
        "hint": "",
    }


_LIMITS = {
    signal.SIGXCPU: ("used up its CPU time", "an operator may raise CELORA_PREPARE_CPU_S"),
    signal.SIGALRM: ("was stuck in one step that nothing could interrupt", "look at the chat template and at the rows"),
    signal.SIGABRT: ("ran out of the memory it may take", "an operator may raise CELORA_PREPARE_MEMORY_BYTES"),
}
"""Cause and advice for each signal by which a kernel's limit ends a trainer (tuning/resource_limits.py)."""

_NO_MEMORY = re.compile(r"memory allocation of \d+ bytes failed|std::bad_alloc|Cannot allocate memory")


def death(code: int, phase: str, tail: str, oom_kills: int = 0) -> Ending:
    """Describe the death of a trainer that reported no ending.

    Args:
        code: The exit code, negative for a signal.
        phase: The last activity that the trainer reported.
        tail: The end of its log.
        oom_kills: Processes that the kernel's memory limit ended during the run.
    """
    if -code in _LIMITS and (code != -signal.SIGABRT or _NO_MEMORY.search(tail)):
        what, advice = _LIMITS[signal.Signals(-code)]
        return {
            "code": LimitError.code,
            "message": f"the trainer {what} and was ended (while it did: {phase or 'start'}).",
            "hint": f"Split or mend the dataset; {advice}.",
        }
    if code == -signal.SIGKILL and oom_kills > 0:
        return {
            "code": "host_out_of_memory",
            "message": f"the kernel ended the trainer because the machine ran out of memory (while it did: "
            f"{phase or 'start'}).",
            "hint": "",
        }
    if found := kind_of_log(tail):
        return {
            "code": found.code,
            "message": f"the trainer died (while it did: {phase or 'start'}): {_last_line(tail)}",
            "hint": "",
        }
    if code < 0:
        return {
            "code": "killed",
            "message": f"the trainer was ended by signal {-code} without a word.",
            "hint": "Signal 9 without a kill by the kernel's memory limit: somebody ended it, or look at the kernel's "
            "log."
            if code == -signal.SIGKILL
            else "",
        }
    return {
        "code": "internal",
        "message": f"the trainer left with exit code {code} and said neither done nor failed.",
        "hint": "The end of the job's log says more.",
    }


def _last_line(tail: str) -> str:
    return next((line.strip()[:300] for line in reversed(tail.splitlines()) if line.strip()), "nothing was said")


def host_death(report: ExitReport, run: str, phase: str, tail: str, *, why: str = "") -> Ending:
    """Describe the end of a run whose host died.

    Args:
        report: The host's end.
        run: The run (``host_messages.run_name``).
        phase: The last activity that the run reported.
        tail: The ends of the job's log and of the host's log since the run began.
        why: The reason in words, where another supervisor ended the host on purpose.
    """
    code = -report.signal if report.signal is not None else report.code if report.code is not None else 1
    alone = death(code, phase, tail, report.oom_kills)
    facts = {GENERATION: report.generation}
    others = len({*report.runs} - {run})
    if not others:
        return {**alone, "facts": facts}
    cause = why or (f"signal {report.signal}" if report.signal is not None else f"exit code {code}")
    return {
        "code": HOST_LOST,
        "message": f"the trainer host ended ({cause}) while this run and {others} other{'s' if others > 1 else ''} "
        f"were inside (while it did: {phase or 'start'}).",
        "hint": "",
        "facts": {**facts, CAUSE: alone["code"]},
    }
