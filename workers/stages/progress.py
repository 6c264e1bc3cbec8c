"""Records a trainer's events as rows, at most one write a second, and buffers them while the database is away.

A thread records the events in their order. The supervisor is thus free to detect a cancel, a drain or a lost lease
while a checkpoint is being uploaded or a database does not answer.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ...errors import StorageError, UnavailableError
from ...models.columns import DEVICE_S
from ...models.events import Level, record_event
from ...models.jobs.progress import record_checkpoint, record_metric_points, record_progress
from ...models.scope.scope import Scope
from ...settings.failpoints import hit
from ...storage.manifest import MANIFEST, file_sha256
from .. import messages, results
from ..logging import job_thread
from ..trainer.supervisor import Trainer
from .claimed import ClaimedStage, is_draining

logger = logging.getLogger(__name__)

WRITE_S = 1.0
BUFFERED = 10_000
POLL_S = 0.2
SETTLE_S = 3.0
Event = dict[str, Any]
Entry = Callable[[Session], object]
SHOWN = ("step", "steps", "loss", "learning_rate", "tokens_per_s", "eta_s", "epoch")


class Progress:
    """Records the events of one trainer run.

    Args:
        stage: The claimed stage that the trainer works for.
    """

    def __init__(self, stage: ClaimedStage) -> None:
        self._stage = stage
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
        """Called with a checkpoint's event when the checkpoint is uploaded and recorded, or its upload has failed."""
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
        """Queue one event for recording; events are buffered while the record is unreachable.

        Raises:
            CeloraError: The handling of an earlier event failed.
        """
        if self._error is not None:
            raise self._error
        if self._thread is None:
            self._thread = job_thread(self._work, f"progress-{self._stage.claim.job_id}")
            self._thread.start()
        self._taken.put(event)

    def answer(self, trainer: Trainer) -> None:
        """Confirm each checkpoint to this trainer once it is uploaded and recorded; the trainer waits for that."""
        self.put_away = trainer.kept

    def flush(self) -> None:
        """Record the buffered events before the ending, waiting for an unreachable record.

        A worker that lost the job does not wait; a worker that must shut down tries once more and drops the events.
        """
        if self._thread is None:
            return
        self._taken.put(None)
        while self._thread.is_alive():
            self._thread.join(timeout=POLL_S)
            if self._stage.lease.lost:
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
                if self._stage.lease.lost:
                    return  # the record would refuse every event
                if is_draining(self._stage):
                    logger.warning(
                        "job %s: what its trainer told last is lost with the record", self._stage.claim.job_id
                    )
                    return
                time.sleep(SETTLE_S)
        except Exception as error:  # noqa: BLE001  (raised where the trainer is supervised)
            self._error = error

    def _next(self) -> Event | None:
        """Wait for the next event; None is the end. Buffered events are written if no event comes for a while."""
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
            logger.warning(
                "job %s: the trainer sent an event that is not known here: %s", self._stage.claim.job_id, event
            )
            return
        at_once = taker({key: value for key, value in event.items() if key not in ("v", "event", "job", "attempt")})
        if at_once or time.monotonic() - self._written_at >= WRITE_S:
            self._write()

    def _phase(self, facts: dict[str, Any]) -> bool:
        self._fields["progress"] = {name: facts.get(name) for name in ("phase", "done", "total")}
        if DEVICE_S in facts:
            self._fields["progress"][DEVICE_S] = facts[DEVICE_S]
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
                "train_accuracy": facts.get("accuracy"),
                "learning_rate": facts.get("learning_rate"),
                "grad_norm": facts.get("grad_norm"),
                "tokens_per_s": facts.get("tokens_per_s"),
                "gpu_memory_bytes": facts.get("gpu_memory_bytes"),
                "gpu_utilisation": facts.get("gpu_utilisation"),
            }
        )
        return first

    def _eval(self, facts: dict[str, Any]) -> bool:
        measured = {"eval_loss": facts["eval_loss"], "eval_accuracy": facts.get("eval_accuracy")}
        self._points.append({"step": facts["step"], **measured})
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
            uri = self._stage.workspace.upload("checkpoints", folder.name)
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
        self._stage.workspace.keep_receipt(facts["receipt"])
        return False

    def _checkpoint_row(self, facts: dict[str, Any], uri: str, manifest_sha256: str) -> None:
        claim = self._stage.claim

        def record(session: Session) -> None:
            record_checkpoint(
                session,
                claim,
                step=facts["step"],
                uri=uri,
                size_bytes=facts.get("size_bytes", 0),
                manifest_sha256=manifest_sha256,
                epoch=facts.get("epoch"),
            )

        self._checkpoints.append(record)
        self._entries.append(record)

    def _event(self, level: Level, kind: str, message: str, data: dict[str, Any]) -> None:
        claim = self._stage.claim
        self._entries.append(
            lambda session: record_event(session, claim.job_id, claim.attempt, level, kind, message, data)
        )

    def _write(self) -> bool:
        """Write the buffer to the record; return False, and keep the buffer, if the record is unreachable."""
        claim = self._stage.claim
        self._written_at = time.monotonic()
        try:
            with self._stage.database.transaction(Scope.everything) as session:
                ours = record_progress(session, claim, self._fields)
                if ours:
                    record_metric_points(session, claim, self._points)
                    for entry in self._entries:
                        entry(session)
                hit("progress.written")
        except UnavailableError as error:
            logger.warning("job %s: the record is away (%s); its events are kept", claim.job_id, error)
            self._bound()
            return False
        except SQLAlchemyError:
            logger.exception("job %s: the record refuses what its trainer told; that is left out", claim.job_id)
            ours = False
        hit("progress.committed")
        shown = self._fields
        self._points, self._entries, self._checkpoints, self._fields = [], [], [], {}
        if ours and shown:
            self._show(shown)
        return True

    def _bound(self) -> None:
        """Bound the buffer in a long outage: keep the newest events and every checkpoint."""
        self._points = self._points[-BUFFERED:]
        if len(self._entries) > BUFFERED:
            older = [entry for entry in self._entries[:-BUFFERED] if entry in self._checkpoints]
            self._entries = older + self._entries[-BUFFERED:]

    def _show(self, fields: dict[str, Any]) -> None:
        progress: dict[str, Any] = fields.get("progress") or {}
        facts = {"stage": self._stage.stage, **{key: progress[key] for key in SHOWN if key in progress}}
        messages.attempt(
            lambda: results.progress(self._stage.claim.job_id, facts), f"progress of job {self._stage.claim.job_id}"
        )
