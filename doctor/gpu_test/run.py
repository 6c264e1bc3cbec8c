"""Runs one small job on this device through the whole system: ``celora doctor --gpu``.

``celora run-job`` prepares, trains, evaluates and publishes the job in a home of its own. The trainer is killed in the
middle of the training, and the job goes on from its checkpoint. In the end the memory of the device must be free again.
Unusual: all measurements are read from the record while the job runs; no work is repeated to measure it.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from ...errors import CeloraError, TrainingError
from ...models import queries
from ...models.jobs.accept import submit
from ...models.jobs.stage_results import trained_of
from ...models.scope.scope import Scope
from ...models.spec import parse_spec
from ...models.states import Stage, Status
from ...models.tables.types import JsonObject
from ...models.views import JobDetail
from ...tuning.bases.cache import QUANTIZED, copies
from ...workers import gpu
from ...workers.gpu import Device
from .home import Home
from .process import Carrier, alive
from .report import Report

JOB = "doctor"
POLL_S, QUICKLY_S = 0.25, 0.05
FREE_WITHIN_S = 10.0
SLACK_BYTES = 64 * 2**20
"""Device memory that may differ before and after: other programs come and go."""
SAVES = 6
"""Checkpoints of the whole run; the trainer is killed after the first."""


class Trial:
    """Drives the job through the steps.

    Args:
        home: Folder of the trial's record, artifacts and quantized base.
        device: Device of the trial.
        report: Runs and notes the steps.
        within_s: Seconds that all steps together may take.
    """

    def __init__(self, home: Home, device: Device, report: Report, within_s: float) -> None:
        self._home, self._device, self._report = home, device, report
        self._deadline = time.monotonic() + within_s
        self._before = self._used_bytes()

    def run(self, spec: JsonObject) -> None:
        """Run every step; stop at the first that fails, and leave no process behind."""
        with self._home.database.transaction(Scope.everything) as session:
            submit(session, job_id=JOB, spec=parse_spec(spec))
        self._carrier = Carrier(JOB, self._device.index, self._home.environment(), self._home.log)
        steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("prepare", self._prepared),
            ("load and quantize", self._loaded),
            ("train", self._trained),
            ("kill", self._killed),
            ("resume", self._resumed),
            ("train to the end", self._finished),
            ("evaluate", self._evaluated),
            ("publish", self._published),
            ("memory given back", self._given_back),
        )
        try:
            for name, step in steps:
                if not self._report.take(name, step):
                    return
        finally:
            self._carrier.end()

    def _prepared(self) -> str:
        job = self._until(lambda job: job.stage != Stage.PREPARE)
        self._report.facts["base_model"] = job.base_model
        return f"{job.base_model}"

    def _loaded(self) -> str:
        self._until(lambda _job: self._event("training_started", 1) is not None)
        started = self._event("training_started", 1)
        resolved: JsonObject = started["data"]["resolved"] if started is not None else {}
        quantized = [copy for copy in copies(self._home.cache) if copy.form == QUANTIZED]
        if resolved["quantization"] != "nf4" or not quantized:
            raise TrainingError(f"the base was not quantized ({resolved['quantization']}, {len(quantized)} copies).")
        self._report.facts |= {name: resolved[name] for name in ("compute_dtype", "optimizer", "micro_batch")}
        size = sum(copy.size_bytes for copy in quantized)
        return f"NF4 copy of {size / 2**20:.1f} MiB, computes in {resolved['compute_dtype']}"

    def _trained(self) -> str:
        self._until(lambda job: job.checkpoint_step is not None, QUICKLY_S)
        used = self._used_bytes()
        self._report.facts["used_bytes_while_training"] = used
        return f"checkpoint of step {self._job().checkpoint_step}"

    def _killed(self) -> str:
        """Kill the trainer from outside while it trains."""
        trainer = next(iter(self._carrier.trainers()), None)
        if trainer is None or self._job().stage != Stage.TRAIN:
            raise TrainingError("the training was over before it could be killed.", hint="Give it more --steps.")
        trainer.send_signal(signal.SIGKILL)
        self._until(lambda _job: not alive(trainer), QUICKLY_S)
        return f"process {trainer.pid} got SIGKILL and is gone"

    def _resumed(self) -> str:
        job = self._until(lambda _job: self._event("first_step", 2) is not None)
        if not job.resume_step:
            raise TrainingError("the job started again at step 0: its checkpoint was not used.")
        return f"goes on from step {job.resume_step}, attempt {job.attempt}"

    def _finished(self) -> str:
        self._until(lambda job: job.stage in (Stage.EVALUATE, Stage.PUBLISH))
        with self._home.database.session(Scope.everything) as session:
            points = queries.metric_points(session, JOB)
            trained = trained_of(queries.find(session, JOB))
        speeds = sorted(point["tokens_per_s"] for point in points if point["tokens_per_s"])
        self._report.facts |= {
            "tokens_per_s": round(speeds[len(speeds) // 2], 1) if speeds else None,
            "peak_memory_bytes": trained.peak_memory_bytes,
            "train_loss": trained.train_loss,
            "resumed_exactly": trained.exact,
        }
        return f"{trained.steps} of {trained.planned_steps} steps, mean loss {trained.train_loss:.3f}"

    def _evaluated(self) -> str:
        job = self._until(lambda job: job.stage == Stage.PUBLISH)
        measured: JsonObject = job.metrics or {}
        base, tuned = (measured[who]["eval_loss"] for who in ("base", "tuned"))
        return f"adapter reloaded and checked; eval loss {base:.3f} -> {tuned:.3f}"

    def _published(self) -> str:
        job = self._until(lambda job: job.status is Status.COMPLETED)
        code = self._carrier.wait(max(1.0, self._deadline - time.monotonic()))
        if code:
            raise TrainingError(f"celora run-job left with exit code {code} though its job is completed.")
        with self._home.database.session(Scope.everything) as session:
            size_bytes = sum(row["size_bytes"] for row in queries.adapters(session))
        return f"an adapter of {size_bytes / 2**20:.1f} MiB, {len(job.warnings or [])} warnings"

    def _given_back(self) -> str:
        deadline = time.monotonic() + FREE_WITHIN_S
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if left:
            raise TrainingError(left)
        if self._before is None:
            return f"{self._carrier.started} processes were started, none is left"
        after = self._used_bytes() or 0
        self._report.facts |= {"used_bytes_before": self._before, "used_bytes_after": after}
        return f"{self._before / 2**20:.0f} MiB used before, {after / 2**20:.0f} MiB after"

    def _left(self) -> str:
        """Describe the processes or the device memory that are not released yet; empty if there are none."""
        if left := self._carrier.left():
            return f"processes are left: {', '.join(map(str, left))}."
        used = self._used_bytes()
        if used is not None and self._before is not None and used > self._before + SLACK_BYTES:
            return f"{(used - self._before) / 2**20:.0f} MiB of the device's memory were not given back."
        return ""

    def _until(self, reached: Callable[[JobDetail], bool], poll_s: float = POLL_S) -> JobDetail:
        """Poll the record until the job has reached a state.

        Raises:
            TrainingError: The job failed, its process ended, or the time is over.
        """
        while True:
            self._carrier.trainers()
            ended = self._carrier.ended
            job = self._job()
            if reached(job):
                return job
            if job.status in (Status.FAILED, Status.CANCELLED):
                raise TrainingError(job.failure.message or job.status, hint=job.failure.hint)
            if ended or time.monotonic() > self._deadline:
                what = "its process ended early" if ended else "it took too long"
                raise TrainingError(f"{what} (in {job.stage}, {job.status}).", hint=f"Its log is {self._home.log}.")
            time.sleep(poll_s)

    def _job(self) -> JobDetail:
        with self._home.database.session(Scope.everything) as session:
            return queries.job_detail(session, JOB)

    def _event(self, kind: str, attempt: int) -> JsonObject | None:
        with self._home.database.session(Scope.everything) as session:
            events = queries.events(session, JOB)
        return next((event for event in events if (event["kind"], event["attempt"]) == (kind, attempt)), None)

    def _used_bytes(self) -> int | None:
        reading = gpu.reading(self._device.uuid) if self._device.uuid else None
        return reading.used_bytes if reading else None


def run(
    home: Path, device: Device, *, base_model: str, rows: Path, held_out: Path, steps: int, within_s: float,
    told: Callable[[str], None],
) -> JsonObject:  # fmt: skip
    """Run the trial, and return the report.

    Args:
        home: Folder for its files, which is removed in the end unless a step failed.
        device: Device of the trial.
        base_model: Base model.
        rows: Training rows.
        held_out: Rows for the evaluation.
        steps: Optimizer steps in all.
        within_s: Seconds that all steps together may take.
        told: Called with one line at the end of each step.
    """
    report = Report(device, told)
    spec = {
        "base_model": base_model,
        "dataset": str(rows),
        "eval_dataset": str(held_out),
        "tenant": "doctor",
        "max_steps": steps,
        "save_steps": max(1, steps // SAVES),
        "eval_steps": steps,
        "micro_batch": 4,
        "effective_batch": 4,
        "eval_max_rows": 8,
        "eval_max_new_tokens": 16,
        "metrics": ["exact_match"],
        "seed": 1,
    }
    report.facts |= {"base_model": base_model, "steps": steps}
    with Home(home) as place:
        if report.take("NF4 there and back", report.probed):
            try:
                Trial(place, device, report, within_s).run(spec)
            except CeloraError as error:  # before its first step
                report.failed("start", error)
        place.keep = not report.passed
    return report.finished(log=home if not report.passed else None)
