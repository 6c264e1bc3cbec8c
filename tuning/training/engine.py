"""Defines the contract between a training run and the engine that computes its steps.

An engine turns a recipe and prepared data into an adapter, one optimizer step at a time. The engine decides nothing:
control.py decides when to evaluate, save, stop early, pause or drain, in the same way for every engine. Every engine
passes the same tests (test_engine_contract.py): exact resume, drain, order of the events, form of the adapter.

Unusual: a step has two halves, ``step`` and ``update``, so that the caller, and not each engine, refuses a loss or a
gradient that is not finite before it reaches the weights. And one process can drive several engines in turns, so an
engine has its own random numbers and leaves no state in the process between calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Report = Callable[[int, int], None]
"""``report(done, total)`` receives the progress of a long call; its exceptions end the call and propagate."""


def ignore(done: int, total: int) -> None:
    """Do nothing, as the ``Report`` of a caller that needs no progress."""
    del done, total


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        number: The step's number, counted from 1 over the whole run.
        epoch: Finished epochs at the end of the step.
        loss: Nats per trained token, over the whole window.
        learning_rate: The learning rate of this step.
        grad_norm: The norm of the gradient before clipping.
        tokens: The number of tokens in the window, without padding.
        overflow: The gradient overflowed, and the loss scaler (fp16) will skip the update; this is expected, no fault.
        accuracy: The share of the trained tokens that are the model's likeliest ones; None where it is not counted.
    """

    number: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    overflow: bool = False
    accuracy: float | None = None


@dataclass(frozen=True)
class Sample:
    """A greedy answer to a held-out prompt, beside the reference."""

    prompt: str
    answer: str
    reference: str


@dataclass(frozen=True)
class EngineFacts:
    """Facts about the loaded model that the run reports or uses in decisions.

    Attributes:
        trainable_parameters: The number of the adapter's parameters.
        total_parameters: The number of parameters in base and adapter.
        vocabulary: The size of the vocabulary; its logarithm is the loss of guessing. None disables this rule.
        unquantized_layers: The names of the layers that stayed unquantized.
        held_out_tokens: The number of tokens that an evaluation reads.
        adapts_experts: True if the adapter changes the experts of a mixture.
    """

    trainable_parameters: int
    total_parameters: int
    vocabulary: int | None = None
    unquantized_layers: tuple[str, ...] = ()
    held_out_tokens: int = 0
    adapts_experts: bool = False


class Engine(Protocol):
    """Computes the steps of one run. The caller alternates ``step`` and ``update``; any call may come between them."""

    @property
    def facts(self) -> EngineFacts:
        """Return the facts about the loaded model; they are known once the engine exists."""
        ...

    @property
    def eval_accuracy(self) -> float | None:
        """Return the token accuracy of the last ``evaluate``; None where it is not counted."""
        ...

    def start(self) -> None:
        """Prepare the engine for the first step."""
        ...

    def resume(self, checkpoint: Path) -> None:
        """Restore the state of ``save``: the following steps equal those of a run that was never interrupted."""
        ...

    def step(self, report: Report = ignore) -> Step:
        """Compute the gradients of the next step and clip them; the weights stay as they are.

        Args:
            report: Called after each forward and backward pass.
        """
        ...

    def update(self) -> None:
        """Apply the gradients of the last ``step`` to the weights."""
        ...

    def evaluate(self, report: Report = ignore) -> float | None:
        """Return the loss over the first held-out set (loss.py), None where there is none; the run's state stays equal.

        Args:
            report: Called after each batch.
        """
        ...

    def samples(self, report: Report = ignore) -> list[Sample]:
        """Answer a few held-out prompts; the run's state stays equal.

        Args:
            report: Called while the answers are written.
        """
        ...

    def keep_best(self) -> None:
        """Copy the present adapter as the best so far; ``save`` writes the copy, ``resume`` reads it."""
        ...

    def restore_best(self) -> None:
        """Replace the last adapter by the best one."""
        ...

    def save(self, folder: Path) -> None:
        """Write the state that ``resume`` needs, in this process or in another."""
        ...

    def write_adapter(self, folder: Path) -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json``, read them back and check them."""
        ...

    def memory(self) -> tuple[int | None, int | None]:
        """Return device memory in use (bytes) and utilisation (percent); None where a number is not available."""
        ...

    def close(self) -> None:
        """Free the memory and end the trackers; no other call follows. The call is allowed at any time, also twice."""
        ...
