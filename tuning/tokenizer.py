"""The tokenizer of a base, with a pad token that needs no new row in the embeddings.

Padding carries no loss and no attention, so any token that the model already knows can pad. One that means something
else is the last choice: with the end token as padding, code that masks by token would unlearn to stop.

``AutoTokenizer`` imports torch, which costs seconds that ``prepare`` has no use for. For the common families the class
that it would choose is known and loaded at once; whatever stands in no row of the table is left to it. A test compares
every row with ``AutoTokenizer``'s choice, so that a new version of transformers can't move one unnoticed.
"""

# pyright: basic
# (transformers has no complete types)

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from ..settings.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<|padding|>")
SPARE = re.compile(r"<\|?(reserved_special_token|unused|reserved|extra_id|special)_?\d+\|?>|\[unused\d+\]")

PLAIN = "TokenizersBackend"
"""transformers' class for a tokenizer.json as it stands."""

CLASSES = {
    ("llama", "LlamaTokenizer"): "LlamaTokenizer",
    ("llama", "GPT2Tokenizer"): "GPT2Tokenizer",
    ("llama", PLAIN): PLAIN,
    ("mistral", "LlamaTokenizer"): PLAIN,
    ("mistral", PLAIN): PLAIN,
    ("qwen2", "Qwen2Tokenizer"): "Qwen2Tokenizer",
    ("qwen2", PLAIN): "Qwen2Tokenizer",
    ("qwen3", "Qwen2Tokenizer"): "Qwen2Tokenizer",
    ("qwen3", PLAIN): PLAIN,
    ("gemma", "GemmaTokenizer"): "GemmaTokenizer",
    ("gemma", PLAIN): PLAIN,
    ("gemma2", "GemmaTokenizer"): "GemmaTokenizer",
    ("gemma2", PLAIN): PLAIN,
    ("phi3", "LlamaTokenizer"): PLAIN,
    ("phi3", PLAIN): PLAIN,
}
"""By model type and the class that tokenizer_config.json names (without Fast): the class that AutoTokenizer takes."""


def load(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder, pad token ensured.

    Raises:
        BaseModelError: There is no tokenizer, or nothing in it that can pad.
    """
    try:
        chosen: Any = _class_of(folder) or transformers.AutoTokenizer
        tokenizer: Any = chosen.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise BaseModelError(
            f"the tokenizer in {folder} can't be loaded: {str(error).splitlines()[0]}",
            hint="A base needs tokenizer.json or its model's own tokenizer files beside the weights.",
        ) from error
    _ensure_pad(tokenizer, folder)
    return tokenizer


def _class_of(folder: Path) -> type | None:
    """The class of a folder's tokenizer; None where AutoTokenizer has to look."""
    model, settings = _json(folder / "config.json"), _json(folder / "tokenizer_config.json")
    named = str(settings.get("tokenizer_class")).removesuffix("Fast")
    named = PLAIN if named == "PreTrainedTokenizer" else named
    found = CLASSES.get((str(model.get("model_type")), named))
    whole = folder / "tokenizer.json"
    if found is None or "auto_map" in settings or not whole.is_file() or (folder / "tekken.json").exists():
        return None
    if named == "LlamaTokenizer" and '"ByteLevel"' in whole.read_text(encoding="utf-8"):  # Llama 3's, misnamed
        return None
    return getattr(transformers, found)


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _ensure_pad(tokenizer: Any, folder: Path) -> None:
    rows = _embedding_rows(folder)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    choices = [
        tokenizer.pad_token,
        *(name for name in PAD_NAMES if name in vocabulary and name not in taken),
        *sorted((name for name in vocabulary if SPARE.fullmatch(name)), key=vocabulary.__getitem__)[:1],
        tokenizer.unk_token,
        tokenizer.eos_token,
    ]
    for choice in choices:
        number = vocabulary.get(str(choice)) if choice else None
        if number is not None and (rows is None or number < rows):
            if choice != tokenizer.pad_token:
                tokenizer.pad_token = choice
            return
    raise BaseModelError(
        f"the tokenizer in {folder} has no pad token, and no end, unknown or spare token that could pad"
        + (f" within the model's {rows} embedding rows." if rows else "."),
        hint='Name an existing token in its tokenizer_config.json: "pad_token": "…".',
    )


def _embedding_rows(folder: Path) -> int | None:
    path = folder / "config.json"
    if not path.is_file():  # a tokenizer saved alone
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    return {**config, **(config.get("text_config") or {})}.get("vocab_size")
