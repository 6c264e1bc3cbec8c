"""Reads the stop tokens of a base from its files, and writes them beside an adapter's tokenizer.

Programs that serve a model end an answer at the tokens of ``generation_config.json``, or at the tokenizer's eos. An
adapter that was trained with another chat template ends at another token than its base. So both files name the end
token of the template in force, and the answer ends in every program that serves the adapter.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...errors import BaseModelError
from .model_files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERATION_CONFIG = "generation_config.json"


def stop_tokens(folder: Path) -> list[int]:
    """Return the ids at which a base ends an answer by its generation_config.json (Llama 3: three); empty without."""
    try:
        named = read_json(folder / GENERATION_CONFIG)
    except BaseModelError:  # a base need not have one
        return []
    found: Any = named.get("eos_token_id")
    numbers = cast("list[Any]", found) if isinstance(found, list) else [found]
    return [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]


def save_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", folder: Path, *, end_token: int | None, stops: Sequence[int]
) -> None:
    """Write a tokenizer whose eos is the end token of its template, and a generation_config.json that names all stops.

    Args:
        tokenizer: A tokenizer that holds the chat template in force; its eos is changed.
        folder: The destination.
        end_token: The token that ends an assistant's turn; None leaves the tokenizer's own eos.
        stops: All ids at which an answer may end.
    """
    written: Any = tokenizer
    if end_token is not None:
        written.eos_token = str(written.convert_ids_to_tokens(end_token))
    written.save_pretrained(str(folder))
    first = [end_token] if end_token is not None else []
    names = {
        "eos_token_id": [*first, *(number for number in stops if number != end_token)],
        "pad_token_id": written.pad_token_id,
        "bos_token_id": written.bos_token_id,
    }
    known = {name: value for name, value in names.items() if value not in (None, [])}
    (folder / GENERATION_CONFIG).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
