# pyright: basic
# (torch ships incomplete types)
"""One run of training: the parts are loaded, the engine is driven along its course, the adapter is written and checked.

"Training returned" is no success here: every planned step was done (or early stopping ended the run), every loss and
gradient was finite, and the adapter that was written has been read back and is finite.
"""

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from ..settings.errors import TrainingError
from ..settings.failpoints import hit
from ..storage.manifest import commit, verify_manifest
from . import base as bases
from . import checkpoint, lora, resume
from . import device as devices
from .course import Course, Progress, Saving
from .estimate import planned_steps, resolve_recipe
from .failures import Situation
from .packing import pack
from .prepared import PreparedSet, eval_rows, load_result
from .protocol import Emit, TrainRequest, TrainResult
from .recipe import ResolvedRecipe
from .sft import SAMPLES, SftEngine


class Run:
    """Everything that one call of ``engine.train`` holds; loading it can take minutes."""

    def __init__(self, request: TrainRequest, emit: Emit, stop: threading.Event, situation: Situation) -> None:
        self.request = request
        self.out = Path(request.out_dir)
        self.facts = load_result(Path(request.prepared_dir))
        self.rows = PreparedSet.load(Path(request.prepared_dir), "train")
        self.resume_from = Path(request.resume_from) if request.resume_from else None
        saved: dict[str, Any] = verify_manifest(self.resume_from) if self.resume_from else {}
        self.recipe, sequences = self._resolve(emit)
        self.recipe = resume.fit(self.recipe, request, saved.get("versions", {}), emit)
        situation.recipe = self.recipe
        self.planned_steps = planned_steps(sequences, self.recipe)
        saving = self._saving()
        progress = self._resumed(saved, saving, emit)
        self.engine = self._build(emit, saved.get("versions", {}))
        self.course = Course(
            engine=self.engine,
            recipe=self.recipe,
            planned_steps=self.planned_steps,
            emit=emit,
            stop=stop,
            saving=saving,
            progress=progress,
            guess_nats=self.engine.guess_nats,
            situation=situation,
        )
        trainable, total = self.engine.model.get_nb_trainable_parameters()
        self.counts = {"trainable_parameters": trainable, "total_parameters": total}
        emit(
            "started",
            resolved=self.recipe.model_dump(mode="json"),
            planned_steps=self.planned_steps,
            resume_step=progress.step,
            unquantized_layers=self.unquantized,
            **self.counts,
        )

    def train(self) -> TrainResult | None:
        """Drive the engine to the end of its course; None when it was drained."""
        self.engine.run(self.course, self.resume_from)
        if self.course.outcome == "drained":
            self.course.emit("drained", step=self.course.progress.step)
            return None
        return self._finish()

    def _finish(self) -> TrainResult:
        """Choose the adapter, write and check it, and measure it once more."""
        course, progress = self.course, self.course.progress
        stopped_early = course.outcome == "stopped_early"
        if progress.step < self.planned_steps and not stopped_early:
            raise TrainingError(f"Training came back after {progress.step} of {self.planned_steps} steps.")
        measured_at = progress.eval_step
        if course.keeps_best and progress.best_step != progress.step:
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
            unquantized_layers=self.unquantized,
            tokens=progress.tokens,
            train_s=progress.train_s,
            peak_memory_bytes=devices.peak_memory_bytes(self.request.device),
            adapter_dir=str(self._write_adapter()),
            exact=not progress.drift,
            warnings=self._warnings(),
            **self.counts,
        )

    def _resolve(self, emit: Emit) -> tuple[ResolvedRecipe, int]:
        """The recipe without any ``auto``, and the sequences of an epoch."""
        request, facts = self.request, self.facts
        lengths = self.rows.lengths
        sequences = len(pack(lengths, facts.max_length)) if request.recipe.packing else len(lengths)
        if request.resolved is not None:
            return self._adjusted(request.resolved), sequences
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
            longest_row_tokens=int(lengths.max()),
        )
        return self._adjusted(recipe), sequences

    def _adjusted(self, recipe: ResolvedRecipe) -> ResolvedRecipe:
        return recipe if self.request.adjusted is None else recipe.within(self.request.adjusted)

    def _saving(self) -> Saving:
        request = self.request
        return Saving(
            root=self.out / "checkpoints",
            attempt=request.attempt,
            settings=resume.run_settings(request, self.recipe, self.facts, self.planned_steps),
            versions=resume.circumstances(self.recipe, request.device),
            keep=request.keep_checkpoints,
            pinned=self.resume_from,
        )

    def _resumed(self, saved: dict[str, Any], saving: Saving, emit: Emit) -> Progress:
        if self.resume_from is None:
            return Progress()
        checkpoint.require_same_run(self.resume_from, saved, saving.settings)
        known = {field.name for field in fields(Progress)}
        stored = checkpoint.read_progress(self.resume_from)
        progress = Progress(**{name: value for name, value in stored.items() if name in known})
        changed = resume.changes(saved["versions"], saving.versions)
        if changed:
            told = ", ".join(f"{name} {before} is now {now}" for name, (before, now) in changed.items())
            message = f"Resumed at step {progress.step}, but not exact to the bit: {told}."
            emit("note", level="warning", kind="not_exact", message=message, data={"changed": changed})
            progress.drift = [*progress.drift, message]
        return progress

    def _build(self, emit: Emit, saved: Mapping[str, str]) -> SftEngine:
        request, prepared = self.request, Path(self.request.prepared_dir)
        model, self.unquantized = bases.load_model(
            request.base,
            Path(request.cache_dir),
            request.hub,
            quantization=self.recipe.quantization,
            compute_dtype=self.recipe.compute_dtype,
            device=request.device,
            emit=emit,
        )
        held_out = next((name for name, count in self.facts.eval_rows.items() if count), None)
        prompts = [] if held_out is None else list(islice(eval_rows(prepared, held_out), SAMPLES))
        return SftEngine(
            model=lora.attach(model, self.recipe, request.base, seed=request.seed),
            tokenizer=bases.load_tokenizer(prepared / "tokenizer"),
            recipe=self.recipe,
            rows=self.rows,
            eval_set=None if held_out is None else PreparedSet.load(prepared, held_out),
            prompts=prompts,
            planned_steps=self.planned_steps,
            seed=request.seed,
            device=request.device,
            out_dir=self.out,
            run_name=request.job,
            fresh_optimizer="optimizer" in saved and saved["optimizer"] != self.recipe.optimizer,
        )

    def _write_adapter(self) -> Path:
        staged, final = self.out / f".tmp-{self.request.attempt}-adapter", self.out / "adapter"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            staged.mkdir()
            lora.write_adapter(self.engine.model, staged)
            hit("adapter.staged")
            progress = self.course.progress
            step = progress.best_step if self.course.keeps_best else progress.step
            commit(staged, final, step=step, attempt=self.request.attempt)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        hit("adapter.committed")
        return final

    def _warnings(self) -> list[str]:
        kept = f"{len(self.unquantized)} layers stayed unquantized: their shapes do not fit the 4-bit kernels."
        return [*self.course.progress.drift, *([kept] if self.unquantized else [])]
