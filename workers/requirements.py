"""Checks that the training libraries are installed, without importing a heavy one.

A machine that only runs services needs no torch. A machine that reads ``prep`` or a GPU's queue needs it, and would
fail every job without it.
"""

from importlib.util import find_spec

from ..errors import UnavailableError

NEEDED = ("accelerate", "bitsandbytes", "datasets", "numpy", "peft", "torch", "transformers", "trl")
"""The libraries of ``celora[train]`` that training needs."""


def require_training() -> None:
    """Check that data can be prepared and adapters trained here.

    Raises:
        UnavailableError: A library of ``celora[train]`` is missing.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"this machine cannot prepare or train: {', '.join(missing)} not installed.",
            hint='Run `pip install "celora[train]"`; a machine without it may run `-Q celora`, beat and Flower.',
        )
