"""Reads the fields of a row: each has its right type, else a fault names the field, its place and the remedy."""

from collections import Counter
from collections.abc import Set as AbstractSet

from ..files.faults import Fault, Where
from ..files.strict_json import JsonObject, JsonValue

KEPT_KEYS = 1000


def text(value: JsonObject, key: str, *, needed: bool = True) -> str:
    """Reads a field's text; null and absent become empty text where the field may be left out."""
    found = value.get(key)
    if found is None and not needed:
        return ""
    return as_text(found, (key,), key)


def words(value: JsonObject, key: str) -> str:
    """Reads a field's text, which must hold more than white space."""
    found = text(value, key)
    require_words(found, (key,), key)
    return found


def as_text(found: JsonValue, at: Where, name: str) -> str:
    """Returns the value, which must be text."""
    if found is None:
        raise Fault("empty", f"{name} is null", "write its text, or leave the row out", at=at)
    if not isinstance(found, str):
        raise Fault("not_text", f"{name} is {kind(found)}, not text", "write it as text, in quotes", at=at)
    return found


def require_words(found: str, at: Where, name: str) -> None:
    """Refuses text that is empty or white space."""
    if not found.strip():
        raise Fault("empty", f"{name} is empty", "write its text, or leave the row out", at=at)


def items(found: JsonValue, at: Where, name: str, *, fault: str, example: str) -> list[JsonValue]:
    """Returns the value, which must be a list."""
    if not isinstance(found, list):
        raise Fault(fault, f"{name} is {kind(found)}, not a list", f"write {example}", at=at)
    return found


def fields(found: JsonValue, at: Where, name: str, *, fault: str, example: str) -> JsonObject:
    """Returns the value, which must be an object."""
    if not isinstance(found, dict):
        raise Fault(fault, f"{name} is {kind(found)}", f"write {example}", at=at)
    return found


def kind(value: object) -> str:
    """Returns the type of a value in words."""
    names: dict[type, str] = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def count_keys(counts: Counter[str], keys: AbstractSet[str]) -> None:
    """Counts keys that are not used; a file with a new key in each row does not fill the memory."""
    for key in keys:
        if len(counts) < KEPT_KEYS or key in counts:
            counts[key[:100]] += 1
