"""Reads the language model's part and the context length from a base's ``config.json``."""

from collections.abc import Mapping
from typing import Any

UNKNOWN_CONTEXT_TOKENS = 2048
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the language model's part of a configuration; a multimodal model nests it under ``text_config``."""
    return {**config, **(config.get("text_config") or {})}


def context_tokens(config: Mapping[str, Any]) -> int:
    """Return the model's context in tokens; 2048 where its configuration does not say."""
    text = text_config(config)
    for field in CONTEXT_FIELDS:
        value = text.get(field)
        if isinstance(value, int) and value > 0:
            return value
    return UNKNOWN_CONTEXT_TOKENS
