"""Checks the trainer hosts of this machine's workers for `celora doctor`: do they answer, their versions, their ends.

Each host is asked at its own socket, and the reports about the ends of earlier ones are read. The record names the
workers; the hosts of other machines are checked there.
"""

import platform
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings.settings import Settings
from ..tuning.trainer.host_messages import ExitReport, Greeting
from ..workers.stages.resident import place_of
from ..workers.trainer import hosts
from .finding import Finding, fail, judged, ok, warn

ALL_S = 4.0
"""Seconds in which all hosts of the machine are asked."""
WINDOW_S = 3600.0
OFTEN = 3
"""Hosts of one worker that ended otherwise than in order, within the window."""


@dataclass(frozen=True, kw_only=True)
class HostState:
    """The trainer host of a worker.

    Attributes:
        worker: The worker.
        log: The host's log.
        greeting: Its answer; None where there is no host, or it does not answer.
        is_silent: True for a host that lives and does not answer.
        broken: Reports of hosts of this worker that did not end in order lately, the oldest first.
    """

    worker: str
    log: Path
    greeting: Greeting | None = None
    is_silent: bool = False
    broken: tuple[ExitReport, ...] = ()


def trainer_hosts(settings: Settings, workers: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Ask the trainer hosts of this machine; no finding where no worker here can have one."""
    here = [row for row in workers if row["host"] == platform.node() and row["kind"] == "gpu" and row["pid"]]
    if hosts.AVAILABLE and here:
        yield from judged([_state_of(settings, row, ALL_S / len(here)) for row in here], answers, versions, ends)


def answers(states: list[HostState]) -> Finding:
    """Check that each host that lives answers."""
    check, silent = "hosts.answers", [state for state in states if state.is_silent]
    if silent:
        words = f"the trainer host of {_names(silent)} lives and does not answer; its runs make no progress"
        return fail(check, words, f"End it: `celora host restart {silent[0].worker}`. Its log is {silent[0].log}.")
    alive = [state for state in states if state.greeting is not None]
    return ok(check, f"{_names(alive)} answers" if alive else "no trainer host runs now")


def versions(states: list[HostState]) -> Finding:
    """Check that each host has the versions that are installed."""
    check = "hosts.version"
    apart = {state.worker: hosts.differences(state.greeting) for state in states if state.greeting is not None}
    words = [f"that of {worker} has {', '.join(found)}" for worker, found in apart.items() if found]
    if words:
        worker = next(name for name, found in apart.items() if found)
        fix = f"After its present runs it is replaced; `celora host restart {worker}` does it now, with a checkpoint."
        return warn(check, f"a trainer host of another version: {'; '.join(words)}", fix)
    return ok(check, "trainer hosts have the installed versions" if apart else "no trainer host tells its versions now")


def ends(states: list[HostState]) -> Finding:
    """Check that no host ends and is started again and again."""
    check = "hosts.ends"
    often = [state for state in states if len(state.broken) >= OFTEN]
    if often:
        words = "; ".join(f"{state.worker}: {len(state.broken)} times, {_cause(state.broken[-1])}" for state in often)
        fix = (
            f"The end of {often[0].log} says why. After an update of a library: `celora host restart "
            f"{often[0].worker}`; CELORA_SHARE=off trains without hosts."
        )
        return warn(check, f"trainer hosts broke down within the last hour: {words}", fix)
    return ok(check, "no trainer host broke down again and again")


def _state_of(settings: Settings, row: Mapping[str, Any], within_s: float) -> HostState:
    place = place_of(settings, int(row["pid"]))
    greeting = hosts.greeting_of(place, min(within_s, hosts.ASK_S))
    return HostState(
        worker=str(row["id"]),
        log=settings.logs / f"trainer-host-{row['gpu_type']}-{row['device_index'] or 0}.log",
        greeting=greeting,
        is_silent=greeting is None and hosts.is_silent(place),
        broken=tuple(report for report in hosts.ends_of(place, WINDOW_S) if report.signal or report.code),
    )


def _names(states: Iterable[HostState]) -> str:
    return ", ".join(state.worker for state in states)


def _cause(report: ExitReport) -> str:
    """Describe the end of a host in words."""
    if report.oom_kills:
        return "the last for lack of memory"
    if report.signal is not None:
        return f"the last by {signal.Signals(report.signal).name}"
    return f"the last with exit code {report.code}"
