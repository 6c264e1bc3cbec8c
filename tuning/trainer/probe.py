# pyright: basic
# (torch and bitsandbytes ship incomplete types)
"""Tries torch and bitsandbytes on this machine: ``python -m celora.tuning.trainer.probe``, one JSON line a part.

It is a program of its own, because a broken build of either library may end its process. Each part is printed before
the next is tried, so the reader knows the part that failed.
"""

import json
import sys
import warnings
from typing import Any

ROWS, COLUMNS = 128, 256
"""Size of the matrix that goes to NF4 and back; a multiple of every block size."""


def main() -> None:
    """Print the facts about torch, the compute dtype and NF4, in this order."""
    import torch  # noqa: PLC0415  (this program tests whether the import fails)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    device = "cuda" if usable else "cpu"
    _tell("torch", version=torch.__version__, cuda=torch.version.cuda, cuda_usable=usable, said=_first_line(said))
    _tell("dtype", **_dtype(torch, device))
    _tell("nf4", device=device, error=_nf4_error(torch, device), version=_version("bitsandbytes"))


def _dtype(torch: Any, device: str) -> dict[str, Any]:
    from ..device import compute_dtype, name  # noqa: PLC0415  (imports torch)

    facts = {
        "device": device,
        "name": name(device),
        "dtype": compute_dtype(device),
        "cpu_bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),  # noqa: SLF001  (no public name)
    }
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        facts |= {"capability": f"{major}.{minor}", "built_for": torch.cuda.get_arch_list()}
    return facts


def _nf4_error(torch: Any, device: str) -> float:
    """Return the relative error (Frobenius) of Gaussian weights after NF4 and back; the format itself costs 0.09."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # noqa: PLC0415  (the same)

    weights = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).to(device)
    packed, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    back = dequantize_4bit(packed, state)
    return float((back - weights).norm() / weights.norm())


def _version(package: str) -> str:
    from importlib.metadata import version  # noqa: PLC0415  (only here)

    return version(package)


def _first_line(said: list[warnings.WarningMessage]) -> str:
    return next((str(one.message).strip().splitlines()[0] for one in said), "")


def _tell(part: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"part": part, **facts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
