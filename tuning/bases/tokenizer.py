"""Loads the tokenizer of a base, with a pad token that needs no new row in the embeddings.

Padding carries no loss and no attention, so any token that the model already knows can pad. A token with another
meaning is the last choice: with the end token as padding, code that masks by token would train the model not to stop.

``AutoTokenizer`` imports torch, which takes seconds that ``prepare`` can save. For the common families a table names
the class that ``AutoTokenizer`` would choose, and the class is loaded directly; every other family goes through
``AutoTokenizer``. A test compares every row of the table with ``AutoTokenizer``'s choice, so that no new version of
transformers changes a choice unnoticed.
"""

# pyright: basic
# (transformers has no complete types)

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from ...errors import BadBaseError
from ..model_config import text_config
from .local_files import read_text, readable
from .model_files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<|padding|>")
SPARE = re.compile(r"<\|?(reserved_special_token|unused|reserved|extra_id|special)_?\d+\|?>|\[unused\d+\]")

PLAIN = "TokenizersBackend"
"""transformers' class for a plain tokenizer.json."""

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
"""Class that AutoTokenizer takes, by model type and the class that tokenizer_config.json names (without Fast)."""


def load(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a folder and make sure that it has a pad token.

    Raises:
        BadBaseError: The folder has no tokenizer, or the tokenizer has no token that can pad.
    """
    with readable(folder, _not_loaded):
        chosen: Any = _class_of(folder) or transformers.AutoTokenizer
        tokenizer: Any = chosen.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        _ensure_pad(tokenizer, folder)
    return tokenizer


def _not_loaded(folder: Path, error: BaseException) -> BadBaseError:
    return BadBaseError(
        f"the tokenizer in {folder} can't be loaded: {(str(error).splitlines() or [type(error).__name__])[0][:300]}",
        hint="A base needs tokenizer.json or its model's own tokenizer files beside the weights.",
    )


def _class_of(folder: Path) -> type | None:
    """Return the class of a folder's tokenizer; None where AutoTokenizer has to choose it."""
    model, settings = _json(folder / "config.json"), _json(folder / "tokenizer_config.json")
    named = str(settings.get("tokenizer_class")).removesuffix("Fast")
    named = PLAIN if named == "PreTrainedTokenizer" else named
    found = CLASSES.get((str(model.get("model_type")), named))
    whole = folder / "tokenizer.json"
    if found is None or "auto_map" in settings or not whole.is_file() or (folder / "tekken.json").exists():
        return None
    if named == "LlamaTokenizer" and '"ByteLevel"' in read_text(whole):  # Llama 3's, misnamed
        return None
    return getattr(transformers, found)


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


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
    raise BadBaseError(
        f"the tokenizer in {folder} has no pad token, and no end, unknown or spare token that could pad"
        + (f" within the model's {rows} embedding rows." if rows else "."),
        hint='Name an existing token in its tokenizer_config.json: "pad_token": "…".',
    )


def _embedding_rows(folder: Path) -> int | None:
    """Return the rows of the embedding by config.json; None for a tokenizer that was saved without a model."""
    return text_config(_json(folder / "config.json")).get("vocab_size")
