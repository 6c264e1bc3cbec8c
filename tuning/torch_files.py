# pyright: basic
# (torch ships incomplete types)
"""Reads files of torch's own format: optimizer and schedule states that this program wrote. No other module reads them.

Such files are a kind of pickle. ``weights_only`` restricts them to tensors and plain values, and a checkpoint's files
are read only after the checkpoint's manifest was verified.
"""

from pathlib import Path
from typing import IO, Any

import torch


def load_state(file: Path | IO[bytes], device: str) -> Any:
    """Read a state that this program wrote, onto a device."""
    return torch.load(file, map_location=device, weights_only=True)
