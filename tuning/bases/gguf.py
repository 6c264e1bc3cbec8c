"""Converts a ``.gguf`` file once to a folder of safetensors.

transformers reads GGUF by dequantizing it, which takes seconds for each load. It then refuses to save the model as
"quantized with gguf"; this module removes both marks of the quantization.

Numbers in F32, F16 or BF16 keep their bits: the copy has the smallest dtype that holds them all. Quantized numbers
become bfloat16, since GGUF's small formats hold less than that.

The file names the rules by which its tokenizer cuts words (``gguf_pre_tokenizers``). Where celora does not know the
name, or the file gives none, the model's own ``tokenizer.json`` beside the file is used. Without a ``tokenizer.json``
the file is refused: a wrong cut changes tokens without an error.
"""

# pyright: basic
# (transformers and gguf have no complete types)

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BadBaseError, BaseModelError, UnavailableError
from .. import resource_limits
from ..protocol import Emit
from .cache import CONVERTED, Facts, stored
from .local_files import readable
from .model_files import file_digest

VERSION = 3
"""Version of the conversion, raised when the same file gives another result: 2 since the file's own rules cut the words
and F32 and F16 keep their bits, 3 since SentencePiece texts begin with a space as in llama.cpp. The version is a part
of the copy's key, and the tokenizer's files are a part of the key of prepared data; so no cache returns an earlier
result."""
SENTENCEPIECE = "llama"
"""``tokenizer.ggml.model`` of a SentencePiece vocabulary."""
SPACE = "\u2581"
"""Character that SentencePiece writes for a space."""
BYTE_LEVEL = "gpt2"
"""``tokenizer.ggml.model`` of a byte-level BPE, the one kind that has a pre-tokenizer."""
BROUGHT = ("tokenizer.json", "tokenizer_config.json")
"""Tokenizer files that a caller may put beside a ``.gguf`` file whose own tokenizer cuts words by unknown rules."""
FULL_TYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """The entries of a ``.gguf`` file that decide about its conversion.

    Attributes:
        tokenizer: ``gpt2`` (byte-level BPE), ``llama`` (SentencePiece), …
        pre_tokenizer: The name of the rules that cut words; None where the file gives none.
        space_prefix: Whether a space precedes a text, and each text behind a control token; None where the file does
            not say, which llama.cpp takes for yes with SentencePiece.
        add_bos: Whether a text begins with the begin-of-text token; None where the file does not say.
        dtype: The dtype that holds the file's numbers.
    """

    tokenizer: str
    pre_tokenizer: str | None
    space_prefix: bool | None
    add_bos: bool | None
    dtype: str


def converted(gguf: Path, *, digest: str, name: str, kind: str, cache: Path, emit: Emit) -> Path:
    """Return the converted copy of a ``.gguf`` file; one process at a time makes it on first use.

    Args:
        gguf: The file.
        digest: The base's revision without its prefix: the SHA-256 of the copy's source.
        name: The base's name for the list of cached bases.
        kind: ``gguf`` or ``catalogue``, for the same list.
        cache: The installation's cache.
        emit: Receives an event when a conversion begins.

    Raises:
        BadBaseError: The file is no GGUF model that transformers can read.
        BaseModelError: The rules that cut the file's words are unknown.
    """

    def make(staged: Path) -> Facts:
        emit("phase", phase=f"converting {gguf.name}", done=None, total=None)
        facts = read_facts(gguf)
        with resource_limits.lifted():
            _convert(gguf, facts, staged)
        source = name if kind == "gguf" else str(gguf)
        return {"name": name, "kind": kind, "revision": f"sha256:{digest}", "source": source}

    key = hashlib.sha256(f"{VERSION} {digest}".encode()).hexdigest()[:32]
    return stored(cache / CONVERTED / key, make)


def source_digest(gguf: Path, digest: str, cache: Path) -> str:
    """Return the SHA-256 of a ``.gguf`` base's source: the file alone, or the file and a tokenizer beside it.

    Args:
        gguf: The file.
        digest: The file's own SHA-256.
        cache: The installation's cache.
    """
    brought = [path for path in (gguf.parent / file for file in BROUGHT) if path.is_file()]
    if not brought or not _needs_tokenizer(read_facts(gguf)):
        return digest
    parts = [digest, *(file_digest(path, cache) for path in brought)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def read_facts(gguf: Path) -> GgufFacts:
    """Read a file's header.

    Raises:
        BadBaseError: The file is no GGUF file.
        UnavailableError: The package that reads GGUF is not installed.
    """
    try:
        from gguf import GGUFReader  # noqa: PLC0415  (an optional part)
    except ImportError:
        raise UnavailableError(
            "reading a .gguf file needs the package gguf, which is not installed.",
            hint="Run: pip install 'celora[train]'",
        ) from None
    with readable(gguf, unreadable):
        reader = GGUFReader(gguf)
        entries = {
            key: field.contents()
            for key in ("model", "pre", "add_bos_token", "add_space_prefix")
            if (field := reader.fields.get(f"tokenizer.ggml.{key}")) is not None
        }
        dtype = _dtype(reader.tensors)
    pre = entries.get("pre")
    return GgufFacts(
        tokenizer=str(entries.get("model", "")),
        pre_tokenizer=None if pre is None else str(pre),
        space_prefix=entries.get("add_space_prefix"),
        add_bos=entries.get("add_bos_token"),
        dtype=dtype,
    )


def unreadable(gguf: Path, error: BaseException) -> BadBaseError:
    """Make the error for a file that can't be read as a model."""
    return BadBaseError(
        f"{gguf} can't be read as a GGUF language model: {(str(error).splitlines() or [type(error).__name__])[0]}",
        hint="Use a .gguf of an architecture that transformers reads, or the model's safetensors.",
    )


def _dtype(tensors: Any) -> str:
    """Return the smallest dtype that holds every unquantized number of a file; bfloat16 if matrices are quantized."""
    matrices = {str(tensor.tensor_type.name) for tensor in tensors if len(tensor.shape) > 1}
    if not matrices <= set(FULL_TYPES) or not matrices:
        return "bfloat16"
    if len(matrices) > 1 or "F32" in matrices:
        return "float32"
    half = matrices.pop()
    small = [tensor for tensor in tensors if tensor.tensor_type.name != half]
    return ("float16" if half == "F16" else "bfloat16") if all(map(_HOLDS[half], small)) else "float32"


def _float16_holds(tensor: Any) -> bool:
    numbers = np.asarray(tensor.data, dtype=np.float32)
    with np.errstate(over="ignore"):
        return bool((numbers.astype(np.float16).astype(np.float32) == numbers).all())


def _bfloat16_holds(tensor: Any) -> bool:
    """Return whether bfloat16 holds these fp32 numbers exactly; bfloat16 is the upper half of an fp32 number."""
    return bool((np.asarray(tensor.data, dtype=np.float32).view(np.uint32) & 0xFFFF == 0).all())


_HOLDS = {"F16": _float16_holds, "BF16": _bfloat16_holds}


def _needs_tokenizer(facts: GgufFacts) -> bool:
    """Return whether the file's own tokenizer is unusable, because the rules by which it cuts words are unknown."""
    from .gguf_pre_tokenizers import PRE_TOKENIZERS  # noqa: PLC0415  (tokenizers is an optional part)

    return facts.tokenizer == BYTE_LEVEL and facts.pre_tokenizer not in PRE_TOKENIZERS


def _convert(gguf: Path, facts: GgufFacts, out: Path) -> None:
    tokenizer = _tokenizer(gguf, facts)
    model = _model(gguf, facts)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _tokenizer(gguf: Path, facts: GgufFacts) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415  (seconds that only a conversion needs)

    if _needs_tokenizer(facts):
        if not all((gguf.parent / file).is_file() for file in BROUGHT):
            raise _unknown_cuts(gguf, facts)
        with readable(gguf.parent / BROUGHT[0]):
            return AutoTokenizer.from_pretrained(str(gguf.parent), local_files_only=True, trust_remote_code=False)
    with readable(gguf, unreadable):
        tokenizer = AutoTokenizer.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, local_files_only=True, trust_remote_code=False
        )
        if facts.tokenizer == BYTE_LEVEL:
            _cut_as_named(tokenizer, facts)
        elif facts.tokenizer == SENTENCEPIECE and facts.space_prefix is not False:
            _begin_with_space(tokenizer)
    return tokenizer


def _begin_with_space(tokenizer: Any) -> None:
    """Put a space before every piece of text, also before one that begins with a space or follows a control token.

    transformers omits the space there, unlike the models' own tokenizers and llama.cpp.
    """
    from tokenizers import normalizers  # noqa: PLC0415  (an optional part)

    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.backend_tokenizer.pre_tokenizer = None


def _cut_as_named(tokenizer: Any, facts: GgufFacts) -> None:
    from .gguf_pre_tokenizers import PRE_TOKENIZERS, apply_pre_tokenizer, begin_with  # noqa: PLC0415  (as above)

    words = PRE_TOKENIZERS[str(facts.pre_tokenizer)]
    apply_pre_tokenizer(tokenizer.backend_tokenizer, words)
    if facts.add_bos is None and words.begins and tokenizer.bos_token:
        begin_with(tokenizer.backend_tokenizer, str(tokenizer.bos_token))


def _unknown_cuts(gguf: Path, facts: GgufFacts) -> BaseModelError:
    named = "names no rules" if facts.pre_tokenizer is None else f"names the rules {facts.pre_tokenizer!r}"
    return BaseModelError(
        f"the tokenizer in {gguf} {named} by which words are cut (tokenizer.ggml.pre), which celora does not know; "
        "with others the model would meet tokens that it was not trained on.",
        hint=f"Put the model's own {' and '.join(BROUGHT)} beside the file, or use the model's safetensors.",
    )


def _model(gguf: Path, facts: GgufFacts) -> Any:
    import torch  # noqa: PLC0415  (seconds that only a conversion needs)
    from transformers import AutoModelForCausalLM, GgufConfig  # noqa: PLC0415  (the same)

    dense = GgufConfig(gguf_file=gguf.name, dequantize=True)  # packed weights would need kernels from a hub
    with readable(gguf, unreadable):
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            dtype=getattr(torch, facts.dtype),
            quantization_config=dense,
            local_files_only=True,
            trust_remote_code=False,
        )
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model
