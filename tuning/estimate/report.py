"""Reports the estimate: for each device type if a job fits, the parts of its memory, its time and its cost.

No number here was fitted to a machine: the formulas are in memory.py and speed.py, each with its source. A type counts
as proven when a measured run on it stands beside its estimate in the repository; until then the report says that the
type is not proven.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batches.packing import alone, pack
from ..batches.prepared_set import permutation
from ..protocol import DeviceType
from ..recipe import KTO_LEAST_BATCH, Method, Recipe, ResolvedRecipe, evaluations_of, planned_steps
from .memory import FP32, Dtype, Memory, Shape, lora_parameters, memory
from .resolve import MEMORY_SHARE, resolve_recipe
from .speed import (
    UTILISATION,
    Costs,
    cores,
    cpu_number_bytes,
    cpu_rate,
    decoding_s,
    forward_s,
    micro_batches,
    training_s,
)

PROVEN = frozenset({"cpu"})
SHORTEST = 256
"""The shortest maximum length that is proposed."""
MORE_PASSES: dict[Method, int] = {"sft": 0, "dpo": 1, "kto": 3, "orpo": 0}
"""Forward passes beside the trained one: DPO's reference; KTO's reference, and model and reference on other answers."""
MICRO_BATCHES = (1, 2, 4, 8, 16)
LOSS_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of one forward pass when ``evaluate`` measures the loss."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Describes the work of a job, from its prepared data; lengths are tokens after truncation.

    Attributes:
        recipe: The recipe as the job gave it.
        parameters: Number of weights of the base.
        model_config: The base's ``config.json``.
        max_length: Maximum length of a row.
        lengths: Length of each training row.
        trained_tokens: Trained tokens of all training rows together.
        held_out: Lengths of the rows by held-out set; the first is measured during training too.
        answers: Tokens that carry loss, of each row of each held-out set.
        seed: Seed of the order.
        eval_max_rows: Rows of a set that ``evaluate`` answers.
        eval_max_new_tokens: Most tokens of such an answer.
    """

    recipe: Recipe
    parameters: int
    model_config: dict[str, Any]
    max_length: int
    lengths: NDArray[np.int64]
    trained_tokens: int
    held_out: Mapping[str, NDArray[np.int64]]
    answers: Mapping[str, NDArray[np.int64]]
    seed: int
    eval_max_rows: int
    eval_max_new_tokens: int


def estimate(work: Work, devices: Iterable[DeviceType]) -> dict[str, Any]:
    """Return the estimate in the receipt's form: the epoch, the activations by length, and a row a device type."""
    bins = pack(work.lengths, work.max_length) if work.recipe.packing else alone(len(work.lengths))
    run = _Run(work, bins.totals(work.lengths), permutation(len(bins), work.seed, 0))
    packed = len(bins) if work.recipe.packing else len(pack(work.lengths, work.max_length))
    types = [run.device(device) for device in map(_measured, devices)]
    tokens = int(work.lengths.sum())
    return {
        "epoch": run.epoch,
        "packing": {
            "on": work.recipe.packing,
            "sequences": packed,
            "full": round(tokens / (packed * work.max_length), 4),
            "full_without": run.epoch["useful"] if not work.recipe.packing else None,
        },
        "activations": list(_activations(work)),
        "devices": types,
    }


class _Run:
    """Holds the job's work, and the values that do not depend on the device."""

    def __init__(self, work: Work, sequences: NDArray[np.int64], order: NDArray[np.int64]) -> None:
        self.work, self.sequences, self.order = work, sequences, order
        self.shape = Shape.of(work.model_config)
        self.adapter = lora_parameters(work.model_config, work.recipe)
        tokens = int(work.lengths.sum())
        self.scored = work.trained_tokens / tokens if tokens else 0.0
        recipe = self.resolved(_A_DEVICE)
        self.epoch = self._epoch(recipe, tokens)

    def _epoch(self, recipe: ResolvedRecipe, tokens: int) -> dict[str, Any]:
        rows, longest = self._micro_batches(recipe)
        steps = planned_steps(len(self.sequences), recipe)
        a_pass = -(-len(self.sequences) // recipe.effective_batch)
        return {
            "examples": len(self.work.lengths),
            "sequences": len(self.sequences),
            "tokens": tokens,
            "trained_tokens": self.work.trained_tokens,
            "useful": round(tokens / int((rows * longest).sum()), 4),
            "effective_batch": recipe.effective_batch,
            "steps": a_pass,
            "epochs": recipe.epochs if recipe.max_steps is None else round(steps / a_pass, 4),
            "planned_steps": steps,
        }

    def resolved(self, device: DeviceType) -> ResolvedRecipe:
        """Resolve the recipe as a run on this device would resolve it."""
        work = self.work
        return resolve_recipe(
            work.recipe,
            parameters=work.parameters,
            model_config=work.model_config,
            train_rows=len(self.sequences),
            train_tokens=int(work.lengths.sum()),
            max_length=work.max_length,
            device=device.kind,
            device_memory_bytes=device.memory_bytes,
            compute_dtype=_dtype(device),
            longest_row_tokens=int(work.lengths.max()),
        )

    def device(self, device: DeviceType) -> dict[str, Any]:
        """Return the row of one device type."""
        recipe = self.resolved(device)
        parts = self.memory(recipe, device)
        room = int(device.memory_bytes * MEMORY_SHARE)
        fits = parts.total <= room
        seconds = self._seconds(recipe, device)
        return {
            "name": device.name,
            "proven": device.name in PROVEN,
            "fits": fits,
            "memory_bytes": {**asdict(parts), "total": parts.total, "room": room},
            "micro_batch": recipe.micro_batch,
            "accumulation": recipe.accumulation,
            "gradient_checkpointing": recipe.gradient_checkpointing,
            "longest_row_tokens": int(self.sequences.max()),
            "would_fit_with": None if fits else self._remedy(recipe, device, room),
            **{f"{stage}_s": round(took, 1) for stage, took in seconds.items()},
            **{f"{stage}_cost": round(took / 3600 * device.price_per_hour, 6) for stage, took in seconds.items()},
            "price_per_hour": device.price_per_hour,
            "basis": _basis(device),
        }

    def memory(self, recipe: Recipe, device: DeviceType, length: int | None = None) -> Memory:
        """Return the memory of the recipe's own micro batch and checkpointing; the default length is the longest."""
        return memory(
            recipe,
            parameters=self.work.parameters,
            model_config=self.work.model_config,
            length=length or int(self.sequences.max()),
            device=device.kind,
            compute_dtype=_dtype(device),
        )

    def _seconds(self, recipe: ResolvedRecipe, device: DeviceType) -> dict[str, float]:
        work = self.work
        costs = Costs.of(
            self.shape,
            adapter=self.adapter,
            nf4=recipe.quantization == "nf4",
            number_bytes=FP32 if _dtype(device) == "float32" else FP32 // 2,
            scored=self.scored,
            checkpointing=recipe.gradient_checkpointing,
        )
        steps = planned_steps(len(self.sequences), recipe)
        passes = steps / max(1, -(-len(self.sequences) // recipe.effective_batch))
        batches = self._micro_batches(recipe)
        more_s = MORE_PASSES[recipe.method] * forward_s(costs, device, *batches)
        train = passes * (training_s(costs, device, *batches) + more_s)
        losses = {name: forward_s(costs, device, *_by_length(rows, device)) for name, rows in work.held_out.items()}
        if losses:
            train += len(evaluations_of(steps, recipe)) * next(iter(losses.values()))
        answers = sum(self._answers(name, costs, device) for name in work.held_out)
        scored = 2 if recipe.method == "sft" else 4  # base and tuned; of preferences, the other answers too
        return {"train": train, "evaluate": scored * sum(losses.values()) + answers}

    def _answers(self, name: str, costs: Costs, device: DeviceType) -> float:
        """Return the time to answer a set twice: the tuned model as long as the answers, the base up to the limit."""
        answers = np.minimum(self.work.answers[name][: self.work.eval_max_rows], self.work.eval_max_new_tokens)
        prompts = np.maximum(self.work.held_out[name][: len(answers)] - answers, 1)
        limit = np.full_like(answers, self.work.eval_max_new_tokens)
        return decoding_s(costs, device, prompts, answers) + decoding_s(costs, device, prompts, limit)

    def _micro_batches(self, recipe: ResolvedRecipe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return micro_batches(self.sequences, self.order, recipe.micro_batch, recipe.micro_batch * recipe.accumulation)

    def _remedy(self, recipe: ResolvedRecipe, device: DeviceType, room: int) -> dict[str, Any] | None:
        """Find the fewest and mildest changes with which the job fits; None where none suffice."""
        changes: dict[str, Any] = {}
        longest = int(self.sequences.max())
        for change in self._changes(recipe, longest):
            changes |= change
            changed = recipe.model_copy(update=changes)
            if self.memory(changed, device, min(longest, changes.get("max_length", longest))).total <= room:
                return self._needed(recipe, changes, device, room)
        return None

    def _needed(self, recipe: ResolvedRecipe, changes: dict[str, Any], device: DeviceType, room: int) -> dict[str, Any]:
        """Return the changes less those without which the job fits too."""
        longest = int(self.sequences.max())
        for name in list(changes):
            fewer = {key: value for key, value in changes.items() if key != name}
            length = min(longest, fewer.get("max_length", longest))
            if self.memory(recipe.model_copy(update=fewer), device, length).total <= room:
                changes = fewer
        if "micro_batch" in changes:
            changes["effective_batch"] = recipe.effective_batch
        if "max_length" in changes:
            cut = int((self.work.lengths > changes["max_length"]).sum())
            return {**changes, "rows_cut": cut}
        return changes

    def _changes(self, recipe: ResolvedRecipe, longest: int) -> Iterator[dict[str, Any]]:
        """Yield the possible changes, the mildest first; each adds to the changes before it."""
        least = KTO_LEAST_BATCH if recipe.method == "kto" else 1
        if recipe.micro_batch > least:
            yield {"micro_batch": least}
        if not recipe.gradient_checkpointing:
            yield {"gradient_checkpointing": True}
        if recipe.optimizer == "adamw":
            yield {"optimizer": "paged_adamw_8bit"}
        if recipe.quantization == "none":
            yield {"quantization": "nf4"}
        length = longest // 2
        while length >= SHORTEST:
            yield {"max_length": length}
            length //= 2


_A_DEVICE = DeviceType(name="", kind="cuda", memory_bytes=0)


def _activations(work: Work) -> Iterator[dict[str, Any]]:
    """Yield the memory that autograd keeps on a GPU, by longest row and micro batch, with checkpointing and without."""
    longest = int(work.lengths.max())
    typical = int(np.percentile(work.lengths, 95, method="nearest"))
    for length in sorted({typical, longest, work.max_length}):
        for micro in MICRO_BATCHES:
            without, with_it = (
                memory(
                    work.recipe,
                    parameters=work.parameters,
                    model_config=work.model_config,
                    length=length,
                    micro_batch=micro,
                    gradient_checkpointing=checkpointing,
                )
                for checkpointing in (False, True)
            )
            yield {
                "length": length,
                "micro_batch": micro,
                "bytes": without.activations,
                "bytes_with_checkpointing": with_it.activations,
                "logits_bytes": without.logits,
            }


def _by_length(lengths: NDArray[np.int64], device: DeviceType) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and longest row of the batches of ``evaluate``'s loss measurement: by length, bounded in tokens."""
    ordered = np.sort(lengths)[::-1]
    rows: list[int] = []
    longest: list[int] = []
    at = 0
    while at < len(ordered):
        size = max(1, LOSS_TOKENS[device.kind] // int(ordered[at]))
        rows.append(min(size, len(ordered) - at))
        longest.append(int(ordered[at]))
        at += size
    return np.array(rows, dtype=np.int64), np.array(longest, dtype=np.int64)


def _dtype(device: DeviceType) -> Dtype:
    return "bfloat16" if device.kind == "cuda" or cpu_number_bytes() < FP32 else "float32"


def _measured(device: DeviceType) -> DeviceType:
    return device if device.flops_per_s else device.model_copy(update={"flops_per_s": cpu_rate()})


def _basis(device: DeviceType) -> str:
    share = f"{UTILISATION[device.kind]:.0%} of"
    if device.kind == "cpu":
        return (
            f"{share} the {device.flops_per_s / 1e9:.0f} GFLOP/s that fp32 matrix products reach on the {cores()} "
            "cores of the machine that made this receipt, measured then"
        )
    return (
        f"{share} the data sheet's {device.flops_per_s / 1e12:.0f} TFLOP/s; unproven, no run on this type is recorded"
    )
