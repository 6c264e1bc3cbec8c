"""What must be installed on a machine for the work that it takes; nothing heavy is imported to find out.

A machine that only carries services needs no torch. One that reads ``prep`` or a GPU's queue does, and without it would
fail every job that it took.
"""

from importlib.util import find_spec

from ..settings.errors import UnavailableError

NEEDED = ("accelerate", "bitsandbytes", "datasets", "numpy", "peft", "torch", "transformers", "trl")
"""What training cannot do without, of ``celora[train]``."""


def require_training() -> None:
    """Check that data can be prepared and adapters trained here.

    Raises:
        UnavailableError: Something of ``celora[train]`` is missing.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"this machine cannot prepare or train: {', '.join(missing)} not installed.",
            hint='Run `pip install "celora[train]"`; a machine without it may run `-Q celora`, beat and Flower.',
        )
