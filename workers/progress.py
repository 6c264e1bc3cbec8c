"""Turns a trainer's events into rows, at most one write a second, and keeps them while the database is away."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from ..models import transitions
from ..settings.errors import StorageError, UnavailableError
from ..settings.failpoints import hit
from ..storage.manifest import MANIFEST, file_sha256
from . import announce

if TYPE_CHECKING:
    from .carry import Held

logger = logging.getLogger(__name__)

WRITE_S = 1.0
BUFFERED_POINTS = 10_000
SHOWN = ("step", "steps", "loss", "learning_rate", "tokens_per_s", "eta_s", "epoch")


class Progress:
    """Takes the events of one trainer run.

    Args:
        held: The job that is being carried.
    """

    def __init__(self, held: "Held") -> None:
        self._held = held
        self._points: list[dict[str, Any]] = []
        self._events: list[tuple[str, str, str, dict[str, Any]]] = []
        self._fields: dict[str, Any] = {}
        self._written_at = 0.0
        self._backend_away_until = 0.0
        self._first = True
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

    def take(self, event: dict[str, Any]) -> None:
        """Record one event; what cannot be written now is kept for the next."""
        taker = self._takers.get(str(event["event"]))
        if taker is None:
            logger.warning("job %s: the trainer sent an event that is not known here: %s", self._held.job.id, event)
            return
        at_once = taker({key: value for key, value in event.items() if key not in ("v", "event", "job", "attempt")})
        if at_once or time.monotonic() - self._written_at >= WRITE_S:
            self._write()

    def flush(self) -> None:
        """Write what has not been written yet."""
        if self._points or self._events or self._fields:
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
        self._event(facts.get("level", "info"), "note", facts["message"], {})
        return False

    def _checkpoint(self, facts: dict[str, Any]) -> bool:
        folder = Path(facts["path"])
        self._write()
        hit("checkpoint.uploading")
        try:
            uri = self._held.places.upload("checkpoints", folder.name)
        except StorageError as error:
            self._event("warning", "checkpoint_missed", f"step {facts['step']}: {error}", {})
            return True
        hit("checkpoint.uploaded")
        self._store_checkpoint(facts, uri)
        hit("checkpoint.recorded")
        return False

    def _receipt(self, facts: dict[str, Any]) -> bool:
        self._held.places.keep_receipt(facts["receipt"])
        return False

    def _store_checkpoint(self, facts: dict[str, Any], uri: str) -> None:
        job, lease = self._held.job, self._held.lease
        try:
            with self._held.database.transaction() as session:
                transitions.checkpoint(
                    session,
                    job.id,
                    job.attempt,
                    lease.worker_id,
                    step=facts["step"],
                    uri=uri,
                    size_bytes=facts.get("size_bytes", 0),
                    manifest_sha256=file_sha256(Path(facts["path"]) / MANIFEST),
                )
        except (SQLAlchemyError, UnavailableError) as error:
            logger.warning("job %s: checkpoint %s is not in the record yet (%s)", job.id, uri, error)

    def _event(self, level: str, kind: str, message: str, data: dict[str, Any]) -> None:
        self._events.append((level, kind, message, data))

    def _write(self) -> None:
        job, lease = self._held.job, self._held.lease
        try:
            with self._held.database.transaction() as session:
                ours = transitions.progress(session, job.id, job.attempt, lease.worker_id, self._fields)
                if ours:
                    transitions.metric_points(session, job.id, job.attempt, lease.worker_id, self._points)
                    for level, kind, message, data in self._events:
                        transitions.event(session, job.id, job.attempt, level, kind, message, data)
                hit("progress.written")
        except (SQLAlchemyError, UnavailableError) as error:
            logger.warning("job %s: the record is away (%s); its events are kept", job.id, error)
            self._points = self._points[-BUFFERED_POINTS:]
            return
        hit("progress.committed")
        shown = self._fields
        self._points, self._events, self._fields = [], [], {}
        self._written_at = time.monotonic()
        if ours and shown:
            self._show(shown)

    def _show(self, fields: dict[str, Any]) -> None:
        if time.monotonic() < self._backend_away_until:
            return
        progress: dict[str, Any] = fields.get("progress") or {}
        facts = {"stage": self._held.job.stage, **{key: progress[key] for key in SHOWN if key in progress}}
        try:
            announce.progress(self._held.job.id, facts)
        except announce.UNREACHABLE as error:
            logger.info("job %s: its progress cannot be shown to its caller (%s)", self._held.job.id, error)
            self._backend_away_until = time.monotonic() + 30
