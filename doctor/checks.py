"""Runs all checks of `celora doctor` at once, each group with a deadline.

Each group of checks runs on a thread of its own. The findings of a group that gets stuck are kept; being stuck is one
more failure, and so is an error that no check expected. A broker that is down or a database that hangs therefore hides
none of the other findings.
"""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from ..errors import CeloraError
from ..settings.gpus import GIB
from ..settings.settings import Settings, load_settings
from .broker import broker, result_backend
from .finding import Finding, Level, broken, fail
from .leftovers import leftovers
from .machine import disks, gpus, machine, storage
from .record import record
from .secrets import secrets
from .torch import WITHIN_S as TORCH_S
from .torch import training

WITHIN_S = 8.0
LEAST_FREE_BYTES = 5.0 * GIB
Look = Callable[[], Iterator[Finding]]


class Group:
    """Runs some checks on a thread of its own.

    Args:
        name: Name of the finding for a group that does not answer.
        look: Yields the findings.
        within_s: Seconds that the group may take.
    """

    def __init__(self, name: str, look: Look, within_s: float = WITHIN_S) -> None:
        self._name, self._look, self._within_s = name, look, within_s
        self._found: list[Finding] = []
        self._done = threading.Event()
        self._deadline = time.monotonic() + within_s
        threading.Thread(target=self._run, name=f"doctor-{name}", daemon=True).start()

    def findings(self) -> list[Finding]:
        """Wait for the end of the group or of its time; return the findings so far."""
        if self._done.wait(max(0.0, self._deadline - time.monotonic())):
            return self._found
        stuck = f"no answer within {self._within_s:.0f} s"
        return [*self._found, fail(self._name, stuck, "Look whether that server hangs, or the way to it is cut.")]

    def _run(self) -> None:
        try:
            for finding in self._look():
                self._found.append(finding)
        except Exception as error:  # noqa: BLE001  (a check that raises becomes a finding, and the other checks go on)
            self._found.append(broken(self._name, error))
        finally:
            self._done.set()


def examine(least_free_bytes: float = LEAST_FREE_BYTES, *, quick: bool = False) -> list[Finding]:
    """Run every check; return the findings in the order in which they are printed.

    Args:
        least_free_bytes: Free space below which a disk counts as full.
        quick: Leave out the checks that load torch, which takes seconds.
    """
    looks: list[tuple[str, Look]] = []
    try:
        settings = load_settings()
    except (CeloraError, OSError) as error:
        bad = [broken("settings", error)]
    else:
        bad, looks = [], of_installation(settings, least_free_bytes)
    groups = [Group(name, look) for name, look in looks]
    if not quick:
        groups.append(Group("torch", training, TORCH_S + WITHIN_S))
    return [*bad, *(finding for group in groups for finding in group.findings())]


def of_installation(settings: Settings, least_free_bytes: float) -> list[tuple[str, Look]]:
    """List the groups that need settings; the settings are their only input."""
    return [
        ("machine", partial(machine, settings)),
        ("disk", partial(disks, settings, least_free_bytes)),
        ("storage", partial(storage, settings)),
        ("secrets", partial(secrets, settings)),
        ("broker", partial(broker, settings)),
        ("results", partial(result_backend, settings)),
        ("record", partial(record, settings)),
        ("leftovers", partial(leftovers, settings)),
        ("gpu", partial(gpus, settings)),
    ]


def fails(findings: list[Finding]) -> bool:
    """Check if one of the findings is a failure; a warning is none."""
    return any(finding.level is Level.FAIL for finding in findings)
