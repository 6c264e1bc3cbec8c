"""Named places where a test makes a process die, stop or fail: off in production, and then one truth test a call.

``CELORA_FAILPOINT=checkpoint.uploaded:kill`` kills whichever process of this environment passes that point first;
``name:action@3`` waits for the third time, ``name:action>2`` for a value above 2 where the point has one, several go
with commas. Actions: ``kill`` and ``stop`` (SIGKILL and SIGSTOP to itself), ``exit`` (code 70, no clean-up), ``error``
and ``enospc`` (an OSError), ``oom`` (torch's out-of-memory error where torch is loaded, else MemoryError),
``sleep=SECONDS``. The fault "done, but the caller is told that it failed" is an ``error`` at a point after the effect.

A failpoint fires once in a process; children that are forked later inherit that. With ``CELORA_FAILPOINT_ONCE`` set to
a folder, it fires once for all processes that share the folder, and leaves a file there that bears its name.
"""

import errno
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from .errors import SettingsError

VARIABLE = "CELORA_FAILPOINT"
ONCE = "CELORA_FAILPOINT_ONCE"
EXIT_CODE = 70
ACTIONS = ("kill", "stop", "exit", "error", "enospc", "oom", "sleep")

FAILPOINTS: dict[str, str] = {
    "submit.written": "a submit wrote the job's row and has not committed it",
    "submit.committed": "a submit committed the job's row and has not sent its message",
    "submit.sent": "a submit sent its message and has not answered",
    "accept.received": "a finetune message arrived and nothing is written",
    "accept.committed": "a finetune message's job is committed and no scheduling round is asked for",
    "tick.decided": "a scheduling round decided and has not committed",
    "tick.committed": "a scheduling round committed and has not sent its messages",
    "tick.sent": "a scheduling round sent one message",
    "slots.written": "a round wrote a schedule's slots with their jobs and has not committed them",
    "slots.committed": "a schedule's slots are committed and nobody asked for a scheduling round",
    "resend.committed": "a lost message is counted as sent again and is not sent",
    "reap.expired": "the reaper took jobs back and has not committed",
    "reap.committed": "the reaper committed and has not asked for a scheduling round",
    "claim.taken": "a worker claimed a stage and has not committed",
    "claim.committed": "a worker's claim is committed and its lease is not kept yet",
    "work.begin": "the lease is kept and the stage's work begins",
    "work.end": "the stage's work is done and the record does not know",
    "ending.written": "how a stage ended (done, failed, given back, cancelled) is written and not committed",
    "ending.committed": "how a stage ended is committed and its message has not ended",
    "lease.renewing": "a renewal of the lease is written and not committed",
    "lease.renewed": "a renewal of the lease is committed",
    "progress.written": "progress is written and not committed",
    "progress.committed": "progress is committed and still held in memory",
    "checkpoint.uploading": "the trainer told of a checkpoint and it is not uploaded",
    "checkpoint.uploaded": "a checkpoint is uploaded and the record does not know",
    "checkpoint.recorded": "a checkpoint is in the record",
    "upload.begin": "the upload of a folder begins",
    "upload.file": "one file of a folder is uploaded",
    "upload.staged": "a folder is copied whole and not renamed into its place (local root)",
    "upload.removed": "the older folder is removed and the new one not in its place yet (local root)",
    "upload.renamed": "a file or folder is renamed into its place and its parent not flushed (local root)",
    "upload.done": "a folder is uploaded with its manifest",
    "commit.staged": "a folder is staged and has no manifest",
    "commit.flush": "a file or folder is about to be flushed to the disk",
    "commit.manifest": "the manifest is written and flushed and the folder not renamed",
    "commit.renamed": "the folder is renamed and its parent not flushed",
    "save.begin": "a checkpoint begins and nothing is staged",
    "save.filled": "the engine wrote its files and the checkpoint is not committed",
    "save.committed": "a checkpoint is committed and nobody was told",
    "prune.unlinked": "an old checkpoint lost its manifest and still has its files",
    "step.forward": "a forward pass of training begins; its value is the micro batch",
    "step.done": "an optimizer step is done and not reported",
    "step.reported": "a step is reported and nothing that is due after it is done",
    "adapter.staged": "the finished adapter is staged and not committed",
    "adapter.committed": "the finished adapter is committed and the trainer has not said done",
    "publish.assembled": "the published folder is put together and not uploaded",
    "publish.uploaded": "the published folder is uploaded and the record does not know",
    "champion.moved": "a champion's move is committed and its alias not written",
    "champion.claimed": "a champion's change is claimed to be told and not told",
    "announce.claimed": "the announcement of a job's end is claimed and not made",
    "announce.told": "a job's end is announced and the record does not know",
}
"""Every failpoint, in the order in which a job passes them."""


class Failpoint:
    """One armed failpoint.

    Args:
        text: ``name:action``, ``name:action@n`` or ``name:action>value``.

    Raises:
        SettingsError: It is not written so, or there is no such name or action.
    """

    def __init__(self, text: str) -> None:
        self.name, _, rest = text.partition(":")
        action, _, count = rest.partition("@")
        action, _, above = action.partition(">")
        self.action, _, seconds = action.partition("=")
        try:
            self.seconds, self._left = float(seconds or 0), int(count or 1)
            self._above = int(above) if above else None
        except ValueError:
            raise _wrong(text, "it is not name:action, name:sleep=SECONDS or name:action@NUMBER") from None
        if self.name not in FAILPOINTS:
            raise _wrong(text, f"there is no failpoint {self.name!r}")
        if self.action not in ACTIONS:
            raise _wrong(text, f"there is no action {self.action!r}; use one of {', '.join(ACTIONS)}")
        self._lock = threading.Lock()

    def due(self, value: int = 0) -> bool:
        """Count one pass with the point's value; whether this is the one."""
        if self._above is not None and value <= self._above:
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0 and _first(self.name)

    def fire(self) -> None:
        """Do what it is armed with."""
        match self.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "exit":
                os._exit(EXIT_CODE)
            case "sleep":
                time.sleep(self.seconds)
            case "oom":
                raise _out_of_memory(self.name)
            case _:
                number = errno.ENOSPC if self.action == "enospc" else errno.EIO
                raise OSError(number, f"{os.strerror(number)} (failpoint {self.name})")


def parse(text: str) -> dict[str, list[Failpoint]]:
    """The armed failpoints by name.

    Raises:
        SettingsError: One is written wrongly or is not known.
    """
    armed: dict[str, list[Failpoint]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        failpoint = Failpoint(part)
        armed.setdefault(failpoint.name, []).append(failpoint)
    return armed


_armed = parse(os.environ.get(VARIABLE, ""))
if _armed:
    logging.getLogger(__name__).warning("failpoints are armed: %s=%s", VARIABLE, os.environ[VARIABLE])


def hit(name: str, value: int = 0) -> None:
    """The program passes the failpoint of that name; some have a value there, such as the micro batch."""
    if not _armed:
        return
    for failpoint in [failpoint for failpoint in _armed.get(name, ()) if failpoint.due(value)]:
        failpoint.fire()


def _first(name: str) -> bool:
    """Whether no process that shares our folder fired this one before; True where there is no folder."""
    folder = os.environ.get(ONCE)
    if not folder:
        return True
    try:
        Path(folder, name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _out_of_memory(name: str) -> Exception:
    text = f"out of memory (failpoint {name})"
    torch = sys.modules.get("torch")
    return torch.OutOfMemoryError(f"CUDA {text}") if torch is not None else MemoryError(text)


def _wrong(text: str, reason: str) -> SettingsError:
    return SettingsError(f"{VARIABLE}: {text!r} arms nothing: {reason}.", hint="docs/failpoints.md lists them all.")
