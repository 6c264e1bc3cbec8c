"""A ``.gguf`` file as a folder of safetensors, converted once.

transformers reads GGUF by dequantizing it, which takes seconds for each load and leaves a model that it then refuses
to save as "quantized with gguf"; both marks of that are taken off here. The copy is 16-bit: GGUF's small formats hold
less than that.
"""

# pyright: basic
# (transformers has no complete types)

from pathlib import Path
from typing import Any

from ..settings.errors import BaseModelError, UnavailableError
from .cache import CONVERTED, stored
from .protocol import Emit


def converted(gguf: Path, *, digest: str, name: str, kind: str, cache: Path, emit: Emit) -> Path:
    """The converted copy of a ``.gguf`` file; made on first use, by one process at a time.

    Args:
        gguf: The file.
        digest: Its SHA-256, hex: the copy's key.
        name: What people call the base, for the list of cached bases.
        kind: ``gguf`` or ``catalogue``, for the same list.
        cache: The installation's cache.
        emit: Told when a conversion begins.

    Raises:
        BaseModelError: The file is no GGUF model that transformers can read.
    """

    def make(staged: Path) -> dict[str, Any]:
        emit("phase", phase=f"converting {gguf.name}", done=None, total=None)
        _convert(gguf, staged)
        return {"name": name, "kind": kind, "revision": f"sha256:{digest}", "source": str(gguf)}

    return stored(cache / CONVERTED / digest[:32], make)


def _convert(gguf: Path, out: Path) -> None:
    try:
        import gguf as _reader  # noqa: F401, PLC0415  (only to say what is missing)
    except ImportError:
        raise UnavailableError(
            "reading a .gguf file needs the package gguf, which is not installed.",
            hint="Run: pip install 'celora[train]'",
        ) from None
    import torch  # noqa: PLC0415  (seconds that only a conversion needs)
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415  (the same)

    source = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    dense = GgufConfig(gguf_file=gguf.name, dequantize=True)  # packed weights would need kernels from a hub
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **source)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), dtype=torch.bfloat16, quantization_config=dense, **source
        )
    except (ValueError, KeyError, OSError, NotImplementedError, RuntimeError) as error:
        raise BaseModelError(
            f"{gguf} can't be read as a GGUF language model: {str(error).splitlines()[0]}",
            hint="Use a .gguf of an architecture that transformers reads, or the model's safetensors.",
        ) from error
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
