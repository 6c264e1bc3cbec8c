# pyright: basic
# (torch ships incomplete types)
"""The one place where a file of torch's own format is read: optimizer and schedule states that we wrote ourselves.

Such files are of pickle's family. ``weights_only`` restricts them to tensors and plain values, and a checkpoint's files
are only read after its manifest was verified.
"""

from pathlib import Path
from typing import IO, Any

import torch


def load_state(file: Path | IO[bytes], device: str) -> Any:
    """Read a state that this program wrote, onto a device."""
    return torch.load(file, map_location=device, weights_only=True)
