# pyright: basic
# (torch and PEFT ship incomplete types)
"""Loads a written adapter onto a base through plain PEFT, from safetensors alone. No other module reads adapters.

PEFT falls back to unpickling ``adapter_model.bin`` where the safetensors file is missing, and a pickle can run code.
So a folder without a safetensors file is refused before PEFT opens the folder.
"""

import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel

from ...errors import StorageError
from .package import CONFIG, WEIGHTS


def plain_peft(model: Any, folder: Path, name: str = "default") -> PeftModel:
    """Load an adapter folder onto a base under a name, in evaluation mode.

    Raises:
        StorageError: The folder has no safetensors weights.
    """
    _require_adapter(folder)
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5 by a deprecated name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        loaded = PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=False)
    loaded.eval()
    return loaded


def add_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Load one more adapter beside those of a model; ``model.set_adapter(name)`` switches to it.

    Raises:
        StorageError: The folder has no safetensors weights.
    """
    _require_adapter(folder)
    model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
    model.eval()


def _require_adapter(folder: Path) -> None:
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise StorageError(f"{folder} is no adapter: {WEIGHTS} or {CONFIG} is missing.")
