"""Turns a trainer's events into rows, at most one write a second, and keeps them while the database is away.

A thread does it, in the order of the events: whoever supervises the trainer must see a cancel, a drain or a lost lease
also while a checkpoint is being uploaded or a database does not answer.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..models import transitions
from ..settings.errors import StorageError, UnavailableError
from ..settings.failpoints import hit
from ..storage.manifest import MANIFEST, file_sha256
from . import announce, sending
from .process import TrainerProcess

if TYPE_CHECKING:
    from .carry import Held

logger = logging.getLogger(__name__)

WRITE_S = 1.0
BUFFERED = 10_000
POLL_S = 0.2
SETTLE_S = 3.0
Event = dict[str, Any]
Entry = Callable[[Session], object]
SHOWN = ("step", "steps", "loss", "learning_rate", "tokens_per_s", "eta_s", "epoch")


class Progress:
    """Takes the events of one trainer run.

    Args:
        held: The job that is being carried.
    """

    def __init__(self, held: "Held") -> None:
        self._held = held
        self._taken: SimpleQueue[Event | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._points: list[dict[str, Any]] = []
        self._entries: list[Entry] = []
        self._checkpoints: list[Entry] = []
        self._fields: dict[str, Any] = {}
        self._written_at = 0.0
        self._first = True
        self.put_away: Callable[[Event], None] = lambda _event: None
        """Called with a checkpoint's event when it is uploaded and recorded, or given up."""
        self._takers: dict[str, Callable[[dict[str, Any]], bool]] = {
            "phase": self._phase,
            "started": self._started,
            "progress": self._progress,
            "eval": self._eval,
            "sample": self._sample,
            "note": self._note,
            "checkpoint": self._checkpoint,
            "receipt": self._receipt,
        }

    def take(self, event: Event) -> None:
        """Take one event; it is recorded soon, and kept while the record is away.

        Raises:
            CeloraError: An earlier event could not be dealt with.
        """
        if self._error is not None:
            raise self._error
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"progress-{self._held.job.id}", daemon=True)
            self._thread.start()
        self._taken.put(event)

    def answer(self, trainer: TrainerProcess) -> None:
        """Tell this trainer of each checkpoint when it is put away; it waits for that."""
        self.put_away = trainer.kept

    def flush(self) -> None:
        """Record what is left, waiting for a record that is away: first what was done, then how it ended.

        A worker that lost the job does not wait, and one that has to leave waits as long as it can.
        """
        if self._thread is None:
            return
        self._taken.put(None)
        while self._thread.is_alive():
            self._thread.join(timeout=POLL_S)
            if self._held.lease.lost:
                return
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while (event := self._next()) is not None:
                try:
                    self._record(event)
                finally:
                    if event["event"] == "checkpoint":
                        self.put_away(event)
            while self._pending and not self._write():
                if self._held.lease.lost:
                    return  # the record would take none of it
                if self._held.draining():
                    logger.warning("job %s: what its trainer told last is lost with the record", self._held.job.id)
                    return
                time.sleep(SETTLE_S)
        except Exception as error:  # noqa: BLE001  (raised where the trainer is supervised)
            self._error = error

    def _next(self) -> Event | None:
        """The next event; None is the end. What was kept for company is written when none comes for a while."""
        while True:
            try:
                return self._taken.get(timeout=WRITE_S)
            except Empty:
                if self._pending:
                    self._write()

    @property
    def _pending(self) -> bool:
        return bool(self._points or self._entries or self._fields)

    def _record(self, event: Event) -> None:
        taker = self._takers.get(str(event["event"]))
        if taker is None:
            logger.warning("job %s: the trainer sent an event that is not known here: %s", self._held.job.id, event)
            return
        at_once = taker({key: value for key, value in event.items() if key not in ("v", "event", "job", "attempt")})
        if at_once or time.monotonic() - self._written_at >= WRITE_S:
            self._write()

    def _phase(self, facts: dict[str, Any]) -> bool:
        self._fields["progress"] = {"phase": facts.get("phase"), "done": facts.get("done"), "total": facts.get("total")}
        return False

    def _started(self, facts: dict[str, Any]) -> bool:
        self._fields |= {"steps": facts["planned_steps"], "step": facts["resume_step"], "resolved": facts["resolved"]}
        total = facts["total_parameters"] or 1
        share = facts["trainable_parameters"] / total
        self._event(
            "info", "training_started", f"{facts['planned_steps']} steps, {share:.2%} of the weights train", facts
        )
        if facts.get("unquantized_layers"):
            layers = facts["unquantized_layers"]
            text = f"{len(layers)} layers stay unquantized, the 4-bit kernels cannot take them: {', '.join(layers[:5])}"
            self._event("info", "unquantized_layers", text, {"layers": layers})
        return True

    def _progress(self, facts: dict[str, Any]) -> bool:
        first = self._first
        if first:
            self._first = False
            self._event("info", "first_step", f"step {facts['step']} of this attempt is done", {"step": facts["step"]})
        self._fields |= {"step": facts["step"], "steps": facts["steps"], "progress": facts}
        self._points.append(
            {
                "step": facts["step"],
                "train_loss": facts.get("loss"),
                "learning_rate": facts.get("learning_rate"),
                "grad_norm": facts.get("grad_norm"),
                "tokens_per_s": facts.get("tokens_per_s"),
                "gpu_memory_bytes": facts.get("gpu_memory_bytes"),
                "gpu_utilisation": facts.get("gpu_utilisation"),
            }
        )
        return first

    def _eval(self, facts: dict[str, Any]) -> bool:
        self._points.append({"step": facts["step"], "eval_loss": facts["eval_loss"]})
        self._event("info", "eval", f"step {facts['step']}: eval loss {facts['eval_loss']:.4f}", facts)
        return True

    def _sample(self, facts: dict[str, Any]) -> bool:
        self._event("info", "sample", f"step {facts['step']}: {facts['answer']}", facts)
        return False

    def _note(self, facts: dict[str, Any]) -> bool:
        kind, data = facts.get("kind", "note"), facts.get("data", {})
        self._event(facts.get("level", "info"), kind, facts["message"], data)
        return False

    def _checkpoint(self, facts: dict[str, Any]) -> bool:
        folder = Path(facts["path"])
        self._write()
        hit("checkpoint.uploading")
        try:
            manifest_sha256 = file_sha256(folder / MANIFEST)
            uri = self._held.places.upload("checkpoints", folder.name)
        except FileNotFoundError:
            text = f"step {facts['step']}: a newer one replaced it before it was uploaded"
            self._event("info", "checkpoint_missed", text, {})
            return True
        except StorageError as error:
            self._event("warning", "checkpoint_missed", f"step {facts['step']}: {error}", {})
            return True
        hit("checkpoint.uploaded")
        self._checkpoint_row(facts, uri, manifest_sha256)
        if self._write():
            hit("checkpoint.recorded")
        return False

    def _receipt(self, facts: dict[str, Any]) -> bool:
        self._held.places.keep_receipt(facts["receipt"])
        return False

    def _checkpoint_row(self, facts: dict[str, Any], uri: str, manifest_sha256: str) -> None:
        job, worker_id = self._held.job, self._held.lease.worker_id

        def record(session: Session) -> None:
            transitions.checkpoint(
                session,
                job.id,
                job.attempt,
                worker_id,
                step=facts["step"],
                uri=uri,
                size_bytes=facts.get("size_bytes", 0),
                manifest_sha256=manifest_sha256,
            )

        self._checkpoints.append(record)
        self._entries.append(record)

    def _event(self, level: str, kind: str, message: str, data: dict[str, Any]) -> None:
        job = self._held.job
        self._entries.append(
            lambda session: transitions.event(session, job.id, job.attempt, level, kind, message, data)
        )

    def _write(self) -> bool:
        """Write all that is kept; False if the record is away, and it is kept still."""
        job, lease = self._held.job, self._held.lease
        self._written_at = time.monotonic()
        try:
            with self._held.database.transaction() as session:
                ours = transitions.progress(session, job.id, job.attempt, lease.worker_id, self._fields)
                if ours:
                    transitions.metric_points(session, job.id, job.attempt, lease.worker_id, self._points)
                    for entry in self._entries:
                        entry(session)
                hit("progress.written")
        except UnavailableError as error:
            logger.warning("job %s: the record is away (%s); its events are kept", job.id, error)
            self._bound()
            return False
        except SQLAlchemyError:
            logger.exception("job %s: the record refuses what its trainer told; that is left out", job.id)
            ours = False
        hit("progress.committed")
        shown = self._fields
        self._points, self._entries, self._checkpoints, self._fields = [], [], [], {}
        if ours and shown:
            self._show(shown)
        return True

    def _bound(self) -> None:
        """Keep a long outage from filling the memory: the newest stays, and every checkpoint."""
        self._points = self._points[-BUFFERED:]
        if len(self._entries) > BUFFERED:
            older = [entry for entry in self._entries[:-BUFFERED] if entry in self._checkpoints]
            self._entries = older + self._entries[-BUFFERED:]

    def _show(self, fields: dict[str, Any]) -> None:
        progress: dict[str, Any] = fields.get("progress") or {}
        facts = {"stage": self._held.job.stage, **{key: progress[key] for key in SHOWN if key in progress}}
        sending.attempt(lambda: announce.progress(self._held.job.id, facts), f"progress of job {self._held.job.id}")
