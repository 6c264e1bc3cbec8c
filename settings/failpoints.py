"""Defines named places where a test makes a process die, stop or fail; unarmed, a call costs one truth test.

``CELORA_FAILPOINT=checkpoint.uploaded:kill`` kills the first process of this environment that passes that point.
``name:action@3`` waits for the third pass, ``name:action>2`` for a value above 2 where the point has a value; commas
separate several failpoints. Actions: ``kill`` and ``stop`` (SIGKILL and SIGSTOP to itself), ``exit`` (code 70, no
clean-up), ``error`` and ``enospc`` (an OSError), ``oom`` (torch's out-of-memory error where torch is loaded, else
MemoryError), ``sleep=SECONDS``. An ``error`` at a point after the effect is the fault "done, but reported as failed".

A failpoint fires once in a process; a child that is forked later inherits this state. With ``CELORA_FAILPOINT_ONCE``
set to a folder, it fires once for all processes that share the folder, and leaves a file of its name there.
"""

import errno
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from ..errors import SettingsError

VARIABLE = "CELORA_FAILPOINT"
ONCE = "CELORA_FAILPOINT_ONCE"
EXIT_CODE = 70
ACTIONS = ("kill", "stop", "exit", "error", "enospc", "oom", "sleep")

FAILPOINTS: dict[str, str] = {
    "submit.written": "a submit wrote the job's row and has not committed it",
    "submit.committed": "a submit committed the job's row and has not sent its message",
    "submit.sent": "a submit sent its message and has not answered",
    "file.stored": "the content of a file that came over HTTP is stored and its row is not written",
    "file.committed": "the row of a file that came over HTTP is committed and its check is not requested",
    "create.written": "a create over HTTP wrote the job's rows and has not committed them",
    "create.committed": "the job of a create over HTTP is committed and its messages are not sent",
    "accept.received": "a finetune message arrived and nothing is written",
    "accept.committed": "the job of a finetune message is committed and no scheduling round is requested",
    "tick.decided": "a scheduling round decided and has not committed",
    "tick.committed": "a scheduling round committed and has not sent its messages",
    "tick.sent": "a scheduling round sent one message",
    "slots.written": "a round wrote the runs of a schedule with their jobs and has not committed them",
    "slots.committed": "the runs of a schedule are committed and no scheduling round is requested",
    "resend.committed": "a lost message is counted as sent again and is not sent",
    "reap.expired": "the reaper took jobs back and has not committed",
    "reap.committed": "the reaper committed and has not requested a scheduling round",
    "claim.taken": "a worker claimed a stage and has not committed",
    "claim.committed": "the claim of a worker is committed and its lease is not renewed yet",
    "work.begin": "the lease is renewed and the work of the stage begins",
    "work.end": "the work of the stage is done and not recorded",
    "ending.written": "the outcome of a stage (done, failed, given back, cancelled) is written and not committed",
    "ending.committed": "the outcome of a stage is committed and its message has not ended",
    "lease.renewing": "a renewal of the lease is written and not committed",
    "lease.renewed": "a renewal of the lease is committed",
    "progress.written": "progress is written and not committed",
    "progress.committed": "progress is committed and still buffered in memory",
    "checkpoint.uploading": "the trainer reported a checkpoint and it is not uploaded",
    "checkpoint.uploaded": "a checkpoint is uploaded and not recorded",
    "checkpoint.recorded": "a checkpoint is recorded",
    "upload.begin": "the upload of a folder begins",
    "upload.file": "one file of a folder is uploaded",
    "upload.staged": "a folder is copied as a whole and not renamed into its place (local root)",
    "upload.part_stored": "a part of an upload over HTTP is stored, its row is not committed",
    "upload.joined": "the parts of an upload over HTTP are one content, no file has it yet",
    "upload.removed": "the older folder is removed and the new one not in its place yet (local root)",
    "upload.renamed": "a file or folder is renamed into its place and its parent not flushed (local root)",
    "upload.done": "a folder is uploaded with its manifest",
    "commit.staged": "a folder is staged and has no manifest",
    "commit.flush": "a file or folder is about to be flushed to the disk",
    "commit.manifest": "the manifest is written and flushed and the folder not renamed",
    "commit.renamed": "the folder is renamed and its parent not flushed",
    "save.begin": "a checkpoint begins and nothing is staged",
    "save.filled": "the engine wrote its files and the checkpoint is not committed",
    "save.committed": "a checkpoint is committed and not reported",
    "prune.unlinked": "an old checkpoint lost its manifest and still has its files",
    "step.forward": "a forward pass of training begins; its value is the micro batch",
    "step.done": "an optimizer step is done and not reported",
    "step.reported": "a step is reported and the actions that are due after it are not done",
    "adapter.staged": "the finished adapter is staged and not committed",
    "adapter.committed": "the finished adapter is committed and the trainer has not reported its end",
    "publish.assembled": "the published folder is assembled and not uploaded",
    "publish.uploaded": "the published folder is uploaded and not recorded",
    "champion.moved": "the change of a champion is committed and its alias not written",
    "champion.claimed": "the notification of a champion's change is claimed and not sent",
    "announce.claimed": "the announcement of a job's end is claimed and not made",
    "announce.told": "the end of a job is announced and the announcement not recorded",
    "notify.claimed": "deliveries of notices are claimed and not sent",
    "notify.sent": "deliveries of notices are sent and not recorded",
}
"""All failpoints with the state of the process there, in the order in which a job passes them."""


class Failpoint:
    """One armed failpoint.

    Args:
        text: ``name:action``, ``name:action@n`` or ``name:action>value``.

    Raises:
        SettingsError: The text has another form, or the name or action does not exist.
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
        """Count one pass with the value of the point; True if the failpoint fires at this pass."""
        if self._above is not None and value <= self._above:
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0 and _first(self.name)

    def fire(self) -> None:
        """Carry out the armed action."""
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
    """Parse the armed failpoints; return them by name.

    Raises:
        SettingsError: A failpoint has a wrong form or is unknown.
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
    """Pass the failpoint of that name, and fire it if it is armed; some have a value, such as the micro batch."""
    if not _armed:
        return
    for failpoint in [failpoint for failpoint in _armed.get(name, ()) if failpoint.due(value)]:
        failpoint.fire()


def _first(name: str) -> bool:
    """Return whether no process that shares the folder of ``ONCE`` fired this failpoint before."""
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
