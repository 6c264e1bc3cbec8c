# pyright: basic
# (torch ships incomplete types)
"""Executes one training run, from a request to a checked adapter folder.

The module loads the parts, the control drives the engine from step to step, and the adapter is written and checked. A
return from training alone is not a success. A run succeeds if every planned step was done (or early stopping ended the
run), every loss and gradient was finite, and the written adapter has been read back and is finite.
"""

import json
import shutil
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from ...errors import TrainingError
from ...settings.failpoints import hit
from ...storage.manifest import commit, verify_manifest
from .. import device as devices
from ..adapters import lora
from ..bases import base as bases
from ..batches.packing import pack
from ..batches.prepared_set import PreparedSet, eval_rows, load_result
from ..estimate.resolve import resolve_recipe
from ..failures import Situation, explained
from ..protocol import WHOLE_DEVICE, Emit, PrepareResult, TrainRequest, TrainResult, Turn
from ..recipe import PAIRED, ResolvedRecipe, planned_steps
from . import checkpoint, resume
from .control import RunControl
from .engine import Engine
from .engines.samples import SAMPLES
from .engines.sft import SftEngine
from .engines.trl_engine import EngineInput
from .progress import Progress
from .saving import CheckpointPlace


def train(
    request: TrainRequest,
    emit: Emit,
    stop: threading.Event,
    load_model: bases.LoadModel = bases.load_model,
    turn: Turn = WHOLE_DEVICE,
) -> TrainResult | None:
    """Train an adapter, from the start or from a checkpoint, and write it to ``<out_dir>/adapter``.

    Args:
        request: The training request; its folders are local.
        emit: Receives the events (protocol.py).
        stop: Set from outside to end the run at the next step boundary, after a checkpoint.
        load_model: Loads the base, or returns the one that the process holds.
        turn: The run's turn on its device.

    Returns:
        The result; None when ``stop`` ended the run (the ``drained`` event names the step).

    Raises:
        TrainingError: A number was not finite, the loss diverged, memory ran out, the device failed, or steps are
            missing.
        SettingsError: The recipe does not fit the base or the device, or the checkpoint belongs to another run.
        StorageError: The checkpoint is incomplete, or the disk has no space.
    """
    out = Path(request.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    situation = Situation(request.device, out, recipe=request.resolved or request.recipe)
    with explained(situation):
        run = Run(request, emit, stop, situation, load_model, turn)
        try:
            if run.begin():
                while run.advance():
                    pass
            return run.finish()
        finally:
            run.close()


class Run:
    """A loaded run: ``begin``, ``advance`` for as long as they return True, ``finish``, ``close``.

    Several runs in one process can take turns. The constructor loads the base, which can take minutes.

    Args:
        request: The training request.
        emit: Receives the events.
        stop: Set from outside to end the run at the next step boundary.
        situation: Updated at each phase for the explanation of a failure.
        load_model: Loads the base.
        turn: The run's turn on its device.
    """

    def __init__(  # noqa: PLR0917  (the parts of a process that a run needs)
        self,
        request: TrainRequest,
        emit: Emit,
        stop: threading.Event,
        situation: Situation,
        load_model: bases.LoadModel = bases.load_model,
        turn: Turn = WHOLE_DEVICE,
    ) -> None:
        self.request, self.emit = request, emit
        self.out = Path(request.out_dir)
        self.resume_from = Path(request.resume_from) if request.resume_from else None
        saved: dict[str, Any] = verify_manifest(self.resume_from) if self.resume_from else {}
        facts, rows = load_result(Path(request.prepared_dir)), PreparedSet.load(Path(request.prepared_dir), "train")
        recipe, sequences = _resolve(request, facts, rows, emit)
        self.recipe = resume.fit(recipe, request, saved.get("versions", {}), emit)
        situation.recipe = self.recipe
        self.planned_steps = planned_steps(sequences, self.recipe)
        place = self._place(facts)
        progress = self._progress(saved, place)
        saved_optimizer = saved.get("versions", {}).get("optimizer", self.recipe.optimizer)
        self.engine: Engine = _load_engine(
            request,
            self.recipe,
            facts,
            rows,
            emit,
            load_model=load_model,
            planned_steps=self.planned_steps,
            fresh_optimizer=saved_optimizer != self.recipe.optimizer,
        )
        self.control = RunControl(
            self.engine,
            recipe=self.recipe,
            planned_steps=self.planned_steps,
            emit=emit,
            stop=stop,
            place=place,
            progress=progress,
            situation=situation,
            turn=turn,
        )

    def begin(self) -> bool:
        """Announce the run, and start or resume the engine; return whether the run has a step to take."""
        facts = self.engine.facts
        self.emit(
            "started",
            resolved=self.recipe.model_dump(mode="json"),
            planned_steps=self.planned_steps,
            resume_step=self.control.progress.step,
            unquantized_layers=list(facts.unquantized_layers),
            trainable_parameters=facts.trainable_parameters,
            total_parameters=facts.total_parameters,
        )
        return self.control.begin(self.resume_from)

    def advance(self) -> bool:
        """Take one step and the actions that are due after it; return whether the run continues."""
        return self.control.advance()

    def finish(self) -> TrainResult | None:
        """Choose the adapter, write, check and measure it; return the result, or None when the run was drained."""
        control, progress, facts = self.control, self.control.progress, self.engine.facts
        if control.outcome == "drained":
            self.emit("drained", step=progress.step)
            return None
        stopped_early = control.outcome == "stopped_early"
        if progress.step < self.planned_steps and not stopped_early:
            raise TrainingError(f"Training came back after {progress.step} of {self.planned_steps} steps.")
        measured_at = progress.eval_step
        if control.keeps_best and progress.best_step != progress.step:
            self.engine.restore_best()
            measured_at = None
        loss = progress.eval_loss if measured_at == progress.step else self.engine.evaluate()
        return TrainResult(
            resolved=self.recipe,
            steps=progress.step,
            planned_steps=self.planned_steps,
            stopped_early=stopped_early,
            train_loss=progress.loss_sum / progress.step,
            eval_loss=loss,
            trainable_parameters=facts.trainable_parameters,
            total_parameters=facts.total_parameters,
            unquantized_layers=list(facts.unquantized_layers),
            tokens=progress.tokens,
            train_s=progress.train_s,
            peak_memory_bytes=devices.peak_memory_bytes(self.request.device),
            adapter_dir=str(self._write_adapter()),
            exact=not progress.drift,
            warnings=self._warnings(),
        )

    def close(self) -> None:
        """Free the run's memory and end its trackers."""
        self.engine.close()

    def _place(self, facts: PrepareResult) -> CheckpointPlace:
        request = self.request
        return CheckpointPlace(
            root=self.out / "checkpoints",
            attempt=request.attempt,
            settings=resume.run_settings(request, self.recipe, facts, self.planned_steps),
            versions=resume.circumstances(self.recipe, request.device),
            keep=request.keep_checkpoints,
            pinned=self.resume_from,
        )

    def _progress(self, saved: dict[str, Any], place: CheckpointPlace) -> Progress:
        """Return the run's progress; if a resumed run is not exact to the bit, an event and the result report it."""
        if self.resume_from is None:
            return Progress()
        checkpoint.require_same_run(self.resume_from, saved, place.settings, resume.DEFAULTS)
        progress = Progress.read(self.resume_from)
        changed = resume.changes(saved["versions"], place.versions)
        if changed:
            differences = ", ".join(f"{name} {before} is now {now}" for name, (before, now) in changed.items())
            message = f"Resumed at step {progress.step}, but not exact to the bit: {differences}."
            self.emit("note", level="warning", kind="not_exact", message=message, data={"changed": changed})
            progress.drift = [*progress.drift, message]
        return progress

    def _write_adapter(self) -> Path:
        staged, final = self.out / f".tmp-{self.request.attempt}-adapter", self.out / "adapter"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            staged.mkdir()
            self.engine.write_adapter(staged)
            hit("adapter.staged")
            progress = self.control.progress
            step = progress.best_step if self.control.keeps_best else progress.step
            commit(staged, final, step=step, attempt=self.request.attempt)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        hit("adapter.committed")
        return final

    def _warnings(self) -> list[str]:
        unquantized = self.engine.facts.unquantized_layers
        experts = [name for name in unquantized if ".experts" in name]
        warnings = list(self.control.progress.drift)
        if len(experts) < len(unquantized):
            count = len(unquantized) - len(experts)
            warnings.append(f"{count} layers stayed unquantized: their shapes do not fit the 4-bit kernels.")
        if experts:
            changed = "" if self.engine.facts.adapts_experts else "; the adapter does not change them"
            warnings.append(f"{len(experts)} weights of experts stayed unquantized{changed}.")
        return warnings


def _resolve(request: TrainRequest, facts: PrepareResult, rows: PreparedSet, emit: Emit) -> tuple[ResolvedRecipe, int]:
    """Return the recipe without any ``auto``, within the limits of the memory, and the sequences of an epoch."""
    lengths = rows.lengths
    if request.recipe.method in PAIRED:  # a pair goes through a pass with both answers, padded to the longer one
        lengths = 2 * np.maximum(lengths[::2], lengths[1::2])
    sequences = len(pack(lengths, facts.max_length)) if request.recipe.packing else len(lengths)
    recipe = request.resolved
    if recipe is None:
        folder = bases.folder(request.base, Path(request.cache_dir), request.hub, emit)
        recipe = resolve_recipe(
            request.recipe,
            parameters=request.base.parameters,
            model_config=json.loads((folder / "config.json").read_text(encoding="utf-8")),
            train_rows=sequences,
            train_tokens=int(lengths.sum()),
            max_length=facts.max_length,
            device=request.device,
            device_memory_bytes=request.device_memory_bytes or devices.total_memory_bytes(request.device),
            compute_dtype=devices.compute_dtype(request.device),
            longest_row_tokens=int(lengths.max()),
        )
    return (recipe if request.adjusted is None else recipe.within(request.adjusted)), sequences


def _adapted(model: Any, recipe: ResolvedRecipe, request: TrainRequest) -> PeftModel:
    """Return the base with the adapter of the run's beginning: a fresh one, or its parent's."""
    adapted = lora.attach(model, recipe, request.base, seed=request.seed)
    if request.start_from:
        lora.restore(adapted, lora.read_state(Path(request.start_from) / lora.WEIGHTS))
    return adapted


def _load_engine(
    request: TrainRequest,
    recipe: ResolvedRecipe,
    facts: PrepareResult,
    rows: PreparedSet,
    emit: Emit,
    *,
    load_model: bases.LoadModel,
    planned_steps: int,
    fresh_optimizer: bool,
) -> Engine:
    prepared = Path(request.prepared_dir)
    model, unquantized = load_model(
        request.base,
        Path(request.cache_dir),
        request.hub,
        quantization=recipe.quantization,
        compute_dtype=recipe.compute_dtype,
        device=request.device,
        emit=emit,
    )
    held_out = next((name for name, count in facts.eval_rows.items() if count), None)
    given = EngineInput(
        model=_adapted(model, recipe, request),
        tokenizer=bases.load_tokenizer(prepared / "tokenizer"),
        recipe=recipe,
        rows=rows,
        eval_set=None if held_out is None else PreparedSet.load(prepared, held_out),
        prompts=[] if held_out is None else list(islice(eval_rows(prepared, held_out), SAMPLES)),
        planned_steps=planned_steps,
        seed=request.seed,
        device=request.device,
        out_dir=Path(request.out_dir),
        run_name=request.job,
        fresh_optimizer=fresh_optimizer,
        unquantized_layers=tuple(unquantized),
    )
    if recipe.method == "sft":
        return SftEngine(given)
    from .engines.preference import PreferenceEngine  # noqa: PLC0415  (three more trainers of TRL; few runs need them)

    return PreferenceEngine(given, Path(request.reference) if request.reference else None)
