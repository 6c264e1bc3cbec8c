r"""Parses JSON strictly: refuses what ``json`` accepts and what breaks a later reader.

``json`` accepts duplicate keys, NaN, numbers beyond a float's range, NUL characters and lone surrogates. Tokenizers,
databases and other JSON readers do not. The nesting depth is checked before the parser recurses.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import NoReturn, TypeAlias, cast

from .faults import Fault, Where

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"

MAX_DEPTH = 64
MAX_DIGITS = 400
MANY_CHARACTERS = 2**20
MAX_VALUES = 500_000
"""Most values in a row of over a million characters; more brackets or keys are no text, and are costly to hold."""
_MARKS = ("[", "{", '":')
ARRAY_FIX = "write one object a line: jq -c '.[]' IN > OUT"


def parse(text: str, *, row: str = "line") -> JsonObject:
    """Parses a text that is one JSON object.

    Args:
        text: The whole text.
        row: The noun for the text in a refusal.

    Raises:
        Fault: The text is no object, or not strict JSON.
    """
    value = parse_value(text, row=row)
    if not isinstance(value, dict):
        raise _not_an_object(text, value, row)
    return value


def parse_value(text: str, *, row: str = "text") -> JsonValue:
    """Parses a text that is one JSON value.

    Raises:
        Fault: The text is not strict JSON.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_depth(text, row)
    refuse_many_values(text, row)
    try:
        value = cast("JsonValue", _decoder.decode(text))
    except json.JSONDecodeError as error:
        raise _syntax_fault(text, error) from None
    except _RefusedError as error:
        raise Fault(error.kind, error.reason, error.fix, at=_path_of_flaw(text)) from None
    except RecursionError:
        raise Fault("too_deep", f"the {row} is nested too deeply", "write flat rows; see the formats") from None
    if "\\u" in text:
        refuse_bad_characters(text)
    return value


def refuse_many_values(text: str, row: str) -> None:
    """Refuses a long text that holds too many values, before it is parsed."""
    if len(text) > MANY_CHARACTERS and max(map(text.count, _MARKS)) > MAX_VALUES:
        raise Fault("too_many_values", f"the {row} holds more than {MAX_VALUES:,} values", "split it into rows")


_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|([{\[])|([}\]])', re.DOTALL)


def _refuse_depth(text: str, row: str) -> None:
    depth = 0
    for found in _BRACKET.finditer(text):
        depth += (found.lastindex == 1) - (found.lastindex == 2)  # noqa: PLR2004  (the groups of the pattern)
        if depth > MAX_DEPTH:
            raise Fault(
                "too_deep",
                f"the {row} is nested more than {MAX_DEPTH} deep",
                "write flat rows; see the formats",
                offset=found.start(),
            )


def _syntax_fault(text: str, error: json.JSONDecodeError) -> Fault:
    kind, reason = "bad_json", f"invalid JSON: {error.msg[0].lower()}{error.msg[1:]}"
    fix = "write the line with a JSON library (json.dumps), not by hand"
    if "\0" in text:
        return Fault(
            "nul", "the text holds a NUL character", "remove it: tr -d '\\000' < IN > OUT", offset=text.index("\0")
        )
    if error.msg == "Extra data":
        reason, fix = "a second value follows on the same line", "put each object on a line of its own"
        if "\r" in text[error.pos - 1 : error.pos + 1]:
            fix = "end lines with LF, not with CR alone: tr '\\r' '\\n' < IN > OUT"
    elif text.lstrip().startswith("["):
        kind, reason, fix = "array", "the file is a JSON array", ARRAY_FIX
    elif text.strip() == "{":
        reason, fix = "the object goes on over several lines", "write one object a line: jq -c . IN > OUT"
    elif "control character" in error.msg:
        fix = "escape control characters inside text (a line feed is \\n, a tab \\t)"
    return Fault(kind, reason, fix, offset=error.pos)


def _not_an_object(text: str, value: object, row: str) -> Fault:
    if isinstance(value, list):
        return Fault("array", f"the {row} is an array", ARRAY_FIX, offset=len(text) - len(text.lstrip()))
    return Fault("not_an_object", f"the {row} is no JSON object", 'write {"instruction": …, "output": …}')


_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*(\\u(?:0000|d[89a-f][0-9a-f]{2}))", re.IGNORECASE)


def refuse_bad_characters(text: str) -> None:
    r"""Refuses ``\u0000`` and lone surrogates: JSON allows them, tokenizers and databases do not."""
    at = 0
    while found := _ESCAPED.search(text, at):
        start, code = found.start(1), found[1][2:].lower()
        at = found.end()
        if code == "0000":
            raise Fault("nul", "the text holds a NUL character", "remove \\u0000", offset=start)
        follows = text[at : at + 6].lower()
        if code < "dc00" and re.fullmatch(r"\\ud[c-f][0-9a-f]{2}", follows):
            at += 6
            continue
        raise Fault("surrogate", f"\\u{code} is half a character", "write the whole character as UTF-8", offset=start)


class _RefusedError(ValueError):
    """Valid JSON that is refused: a duplicate key, or a number that no float can represent."""

    def __init__(self, kind: str, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.fix = kind, reason, fix


def _unique_keys(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    value = dict(pairs)
    if len(value) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _RefusedError("duplicate_key", f"the key {key!r} stands twice in one object", "keep one of them")
    return value


def _refuse_constant(scalar: str) -> NoReturn:
    reason = f"{scalar[:20]} is no JSON number"
    raise _RefusedError("not_finite", reason, "write a finite number, text or null")


def _integer(digits: str) -> int:
    _refuse_digits(digits)
    return int(digits)


def _float(digits: str) -> float:
    _refuse_digits(digits)
    if math.isinf(number := float(digits)):
        reason = f"the number {digits[:20]} is too large"
        raise _RefusedError("not_finite", reason, "write a finite number, text or null")
    return number


def _refuse_digits(digits: str) -> None:
    if len(digits) > MAX_DIGITS:
        raise _RefusedError("number_too_long", "a number has too many digits", "write a finite number, text or null")


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_float
)


@dataclass(frozen=True, slots=True)
class _Flaw:
    """Stands for a refused value in the tree of a text that is parsed again to find the value's path."""

    key: str | None = None


def _path_of_flaw(text: str) -> Where:
    """Returns the path to the first refused value of a text; an empty path if the text is no JSON after that value.

    The decoder's hooks do not know their place in the text. Only a refused text is parsed twice.
    """

    def pairs(found: list[tuple[str, object]]) -> object:
        value = dict(found)
        if len(value) == len(found):
            return value
        return _Flaw(Counter(key for key, _ in found).most_common(1)[0][0])

    def number(digits: str) -> object:
        return _Flaw() if len(digits) > MAX_DIGITS or math.isinf(float(digits)) else 0

    lenient = json.JSONDecoder(
        object_pairs_hook=pairs, parse_constant=lambda _: _Flaw(), parse_int=number, parse_float=number
    )
    try:
        return _way_to_flaw(lenient.decode(text)) or ()
    except json.JSONDecodeError:
        return ()


def _way_to_flaw(value: object) -> Where | None:
    if isinstance(value, _Flaw):
        return () if value.key is None else (value.key,)
    steps: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        steps = list(cast("dict[str | int, object]", value).items())
    elif isinstance(value, list):
        steps = list(enumerate(cast("list[object]", value)))
    for step, item in steps:
        if (way := _way_to_flaw(item)) is not None:
            return (step, *way)
    return None
