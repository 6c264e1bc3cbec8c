# pyright: basic
# (torch and bitsandbytes ship incomplete types)
"""Checks that an optimizer restores its exact state from a checkpoint; 8-bit ones are checked before a run uses them.

bitsandbytes' 8-bit optimizers keep quantized moments with their own scales and code books, and more than one release
lost some of them between ``state_dict`` and ``load_state_dict`` without an error: the run continues, and learns
differently. So each process tries an 8-bit optimizer before it uses it, on a parameter of a few thousand numbers (some
milliseconds), with the device and the libraries of the training.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch

from ..torch_files import load_state

ROWS, COLUMNS = 128, 64
"""Size of the tried parameter; bitsandbytes keeps the moments of parameters below 4096 numbers in 32 bits."""

MakeOptimizer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


def paged_adamw_8bit(parameters: list[torch.nn.Parameter]) -> Any:
    """Make the optimizer that transformers makes for the name ``paged_adamw_8bit``."""
    from bitsandbytes.optim.adamw import AdamW  # noqa: PLC0415  (takes a second to import)

    return AdamW(parameters, lr=1e-3, optim_bits=8, is_paged=True)


def fault(make: MakeOptimizer, device: str) -> str | None:
    """Take an optimizer through a checkpoint: two steps, save, load into a new one, one more step with both.

    Args:
        make: Makes the optimizer for some parameters.
        device: ``cpu`` or ``cuda``.

    Returns:
        None where both end with the same numbers; else the fault in words.
    """
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # on a CPU the paged optimizers warn that they are not paged
            return _compare(make, device)
    except Exception as error:  # noqa: BLE001  (after any error this optimizer is not reliable here)
        words = str(error).strip().splitlines()
        return f"{type(error).__name__}: {words[0] if words else 'no message'}"


def _compare(make: MakeOptimizer, device: str) -> str | None:
    torch.manual_seed(0)
    gradients = [torch.randn(ROWS, COLUMNS).to(device) for _ in range(3)]
    kept = torch.nn.Parameter(torch.randn(ROWS, COLUMNS).to(device))
    optimizer = make([kept])
    for gradient in gradients[:2]:
        _step(kept, optimizer, gradient)
    before = kept.detach().clone()
    again = torch.nn.Parameter(before.clone())
    loaded = make([again])
    loaded.load_state_dict(_through_a_file(optimizer.state_dict(), device))
    _step(kept, optimizer, gradients[2])
    _step(again, loaded, gradients[2])
    if torch.equal(kept, before):
        return "a step changes nothing"
    if not torch.equal(kept, again):
        return f"the step after loading differs by up to {float((kept - again).abs().max().detach()):.2g}"
    return None


def _step(parameter: torch.nn.Parameter, optimizer: Any, gradient: torch.Tensor) -> None:
    parameter.grad = gradient.clone()
    optimizer.step()


def _through_a_file(state: dict[str, Any], device: str) -> dict[str, Any]:
    """Write a state as a checkpoint does, and read it back as the trainer does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return load_state(file, device)
