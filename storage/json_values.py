"""Replaces the values that JSON or a database cannot hold, in events and in the record alike.

NaN and infinities become null, since JSON has no such numbers. NUL and lone surrogates become U+FFFD: JSON can escape
them, but PostgreSQL stores such JSON and then refuses every query that reads its content.
"""

import re
from typing import Any

JsonObject = dict[str, Any]
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable_text(text: str) -> str:
    """Replace NUL and lone surrogates by U+FFFD; a pair of surrogates becomes the character that it encodes."""
    if not _UNSTORABLE.search(text):
        return text
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def storable(value: Any) -> Any:
    """Copy a JSON-able value with each unstorable number and text replaced; keys of objects become text."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {storable_text(str(key)): storable(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
