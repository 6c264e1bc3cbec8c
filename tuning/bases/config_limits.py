"""Refuses a ``config.json`` with a size that no model has: of a wrong type, negative, or beyond every machine."""

from collections.abc import Mapping
from typing import Any

from ...errors import BadBaseError
from ..model_config import text_config

MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "n_embd": 2**20,
    "intermediate_size": 2**22,
    "n_inner": 2**22,
    "num_hidden_layers": 4096,
    "n_layer": 4096,
    "num_attention_heads": 2**16,
    "n_head": 2**16,
    "num_key_value_heads": 2**16,
    "head_dim": 2**16,
    "max_position_embeddings": 2**31 - 1,
    "n_positions": 2**31 - 1,
    "max_sequence_length": 2**31 - 1,
    "seq_length": 2**31 - 1,
    "n_ctx": 2**31 - 1,
}
"""Largest value of each field that celora computes with; the largest known models have a hundredth of it."""


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Check the fields of a base's configuration that celora and transformers compute with.

    Args:
        config: The content of ``config.json``.
        where: The file, for the message.

    Raises:
        BadBaseError: A field has a wrong type or a size that no model has.
    """
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise BadBaseError(f"{where} names no model_type.")
    if not isinstance(config.get("text_config"), dict | None):
        raise BadBaseError(f"{where} has a text_config that is no object.")
    for field, most in MOST.items():
        _check_size(config.get(field), field, most, where)
        _check_size(text_config(config).get(field), field, most, where)


def _check_size(value: object, field: str, most: int, where: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadBaseError(f"{where} has a {field} that is no whole number.")
    if not 0 < value <= most:
        raise BadBaseError(f"{where} has a {field} of {value:,}; 1 to {most:,} are possible.")
