"""`celora doctor`: everything that is looked at, all of it at once and none of it for long.

Each group of checks runs on a thread of its own. What a group found before it got stuck counts; that it got stuck is a
failure of its own, and so is an error that no check expected. So neither a broker that is down nor a database that
hangs keeps the rest from being told.
"""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from ..settings.errors import CeloraError
from ..settings.gpus import GIB
from ..settings.settings import Settings, load_settings
from .doctor_broker import broker, result_backend
from .doctor_machine import disks, gpus, machine, storage
from .doctor_record import record
from .doctor_secrets import secrets
from .doctor_torch import WITHIN_S as TORCH_S
from .doctor_torch import training
from .finding import Finding, Level, broken, fail

WITHIN_S = 8.0
LEAST_FREE_BYTES = 5.0 * GIB
Look = Callable[[], Iterator[Finding]]


class Group:
    """Checks that are run together, on a thread.

    Args:
        name: What its failure to answer is called.
        look: Yields the findings.
        within_s: Seconds that it may take.
    """

    def __init__(self, name: str, look: Look, within_s: float = WITHIN_S) -> None:
        self._name, self._look, self._within_s = name, look, within_s
        self._found: list[Finding] = []
        self._done = threading.Event()
        self._deadline = time.monotonic() + within_s
        threading.Thread(target=self._run, name=f"doctor-{name}", daemon=True).start()

    def findings(self) -> list[Finding]:
        """What was found, when it is done or its time is over."""
        if self._done.wait(max(0.0, self._deadline - time.monotonic())):
            return self._found
        stuck = f"no answer within {self._within_s:.0f} s"
        return [*self._found, fail(self._name, stuck, "Look whether that server hangs, or the way to it is cut.")]

    def _run(self) -> None:
        try:
            for finding in self._look():
                self._found.append(finding)
        except Exception as error:  # noqa: BLE001  (a check that breaks is a finding, and the others go on)
            self._found.append(broken(self._name, error))
        finally:
            self._done.set()


def examine(least_free_bytes: float = LEAST_FREE_BYTES, *, quick: bool = False) -> list[Finding]:
    """Look at everything; the findings in the order in which they are told.

    Args:
        least_free_bytes: Free space below which a disk counts as full.
        quick: Whether to leave out what has to load torch, which takes seconds.
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
    """The groups that need settings; each gets nothing else."""
    return [
        ("machine", partial(machine, settings)),
        ("disk", partial(disks, settings, least_free_bytes)),
        ("storage", partial(storage, settings)),
        ("secrets", partial(secrets, settings)),
        ("broker", partial(broker, settings)),
        ("results", partial(result_backend, settings)),
        ("record", partial(record, settings)),
        ("gpu", partial(gpus, settings)),
    ]


def fails(findings: list[Finding]) -> bool:
    """Whether anything is broken; warnings are not."""
    return any(finding.level is Level.FAIL for finding in findings)
