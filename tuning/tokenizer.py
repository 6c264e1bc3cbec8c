"""The tokenizer of a base, with a pad token that needs no new row in the embeddings.

Padding carries no loss and no attention, so any token that the model already knows can pad. One that means something
else is the last choice: with the end token as padding, code that masks by token would unlearn to stop.
"""

# pyright: basic
# (transformers has no complete types)

import json
import re
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..settings.errors import BaseModelError

PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<|padding|>")
SPARE = re.compile(r"<\|?(reserved_special_token|unused|reserved|extra_id|special)_?\d+\|?>|\[unused\d+\]")


def load(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, pad token ensured.

    Raises:
        BaseModelError: There is no tokenizer, or nothing in it that can pad.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise BaseModelError(
            f"the tokenizer in {folder} can't be loaded: {str(error).splitlines()[0]}",
            hint="A base needs tokenizer.json or its model's own tokenizer files beside the weights.",
        ) from error
    _ensure_pad(tokenizer, folder)
    return tokenizer


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
