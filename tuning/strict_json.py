r"""JSON read strictly: what ``json`` forgives and what hurts later is refused, with its place.

``json`` takes duplicate keys, NaN, numbers beyond a float's range, NUL characters and lone surrogates; the tokenizer,
the database or the next reader does not. Nesting is bounded before the parser recurses into it. Offsets count
characters from 0.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

from .faults import Fault, Where

MAX_DEPTH = 64
MAX_DIGITS = 400
MANY_CHARACTERS = 2**20
MAX_VALUES = 500_000
"""So many brackets or keys in one row of over a million characters are no text any more, and costly to hold."""
QUICK_CHARACTERS = 2**18
_MARKS = ("[", "{", '":')
ARRAY_FIX = "write one object a line: jq -c '.[]' IN > OUT"


def parse(text: str, *, row: str = "line") -> dict[str, Any]:
    """The JSON object that a text is.

    Args:
        text: All of it.
        row: What the text is called in a refusal.

    Raises:
        Fault: It is no object, or not strict.
    """
    value = parse_value(text, row=row)
    if not isinstance(value, dict):
        raise _not_an_object(text, value, row)
    return value  # pyright: ignore[reportUnknownVariableType]  (JSON)


def parse_value(text: str, *, row: str = "text") -> Any:
    """The JSON value that a text is.

    Raises:
        Fault: It is not strict JSON.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_depth(text, row)
    if len(text) > MANY_CHARACTERS and max(map(text.count, _MARKS)) > MAX_VALUES:
        raise Fault("too_many_values", f"the {row} holds more than {MAX_VALUES:,} values", "split it into rows")
    try:
        value = _decoded(text)
    except json.JSONDecodeError as error:
        raise _syntax_fault(text, error) from None
    except _DuplicateKeyError as error:
        raise _duplicate_fault(text, error.key) from None
    except _NotJsonError as error:
        raise _number_fault(text, error.scalar) from None
    except RecursionError:
        raise Fault("too_deep", f"the {row} is nested too deeply", "write flat rows; see the formats") from None
    if "\\u" in text:
        refuse_bad_characters(text)
    return value


def _decoded(text: str) -> Any:
    """The value of a text; one that is an object from its first to its last character is spared looking for space."""
    if text[:1] == "{":
        try:
            value, end = _scan(text, 0)
        except (StopIteration, json.JSONDecodeError):
            return _decoder.decode(text)  # which tells it better
        if end == len(text):
            return value
    return _decoder.decode(text)


def quick(text: str) -> Any:
    """The object that a text is, where a look shows that ``parse`` would take it; else None.

    A key that stands twice is not seen; ``has_keys`` tells.
    """
    if len(text) > QUICK_CHARACTERS or "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH:
        return None
    try:
        value, end = _quick_scan(text, 0)
    except (StopIteration, ValueError, RecursionError):
        return None
    return value if end == len(text) else None


def has_keys(text: str, count: int) -> bool:
    """Whether a JSON text writes so many keys, and so each once where so many came of it.

    A key is a string before a colon. Where a colon follows white space, or a quoted one looks like a key's, no is said.
    """
    return text.count('":') == count and not (" :" in text or "\t:" in text or "\r:" in text or "\n:" in text)


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
                at=found.start(),
            )


def _syntax_fault(text: str, error: json.JSONDecodeError) -> Fault:
    kind, reason = "bad_json", f"invalid JSON: {error.msg[0].lower()}{error.msg[1:]}"
    fix = "write the line with a JSON library (json.dumps), not by hand"
    if "\0" in text:
        return Fault(
            "nul", "the text holds a NUL character", "remove it: tr -d '\\000' < IN > OUT", at=text.index("\0")
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
    return Fault(kind, reason, fix, at=error.pos)


def _number_fault(text: str, scalar: str) -> Fault:
    kind, reason = "not_finite", f"{scalar[:20]} is no JSON number"
    if scalar[-1].isdigit():
        kind, reason = "number_too_long", "a number has too many digits"
        if len(scalar) <= MAX_DIGITS:
            kind, reason = "not_finite", f"the number {scalar[:20]} is too large"
    return Fault(kind, reason, "write a finite number, text or null", at=_offset_of_scalar(text, scalar))


def _not_an_object(text: str, value: object, row: str) -> Fault:
    at = len(text) - len(text.lstrip())
    if isinstance(value, list):
        return Fault("array", f"the {row} is an array", ARRAY_FIX, at=at)
    return Fault("not_an_object", f"the {row} is no JSON object", 'write {"instruction": …, "output": …}', at=at)


def _duplicate_fault(text: str, key: str) -> Fault:
    seen: set[Where] = set()
    at = 0
    for way, offset, is_key in places(text):
        if is_key and way[-1] == key and way in seen:
            at = offset
            break
        if is_key:
            seen.add(way)
    return Fault("duplicate_key", f"the key {key!r} stands twice in one object", "keep one of them", at=at)


_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*(\\u(?:0000|d[89a-f][0-9a-f]{2}))", re.IGNORECASE)


def refuse_bad_characters(text: str) -> None:
    r"""Refuse ``\u0000`` and lone surrogates, which JSON allows and tokenizers and databases don't."""
    at = 0
    while found := _ESCAPED.search(text, at):
        start, code = found.start(1), found[1][2:].lower()
        at = found.end()
        if code == "0000":
            raise Fault("nul", "the text holds a NUL character", "remove \\u0000", at=start)
        follows = text[at : at + 6].lower()
        if code < "dc00" and re.fullmatch(r"\\ud[c-f][0-9a-f]{2}", follows):
            at += 6
            continue
        raise Fault("surrogate", f"\\u{code} is half a character", "write the whole character as UTF-8", at=start)


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _NotJsonError(ValueError):
    def __init__(self, scalar: str) -> None:
        super().__init__(scalar)
        self.scalar = scalar


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _DuplicateKeyError(key)
    return value


def _refuse_constant(scalar: str) -> NoReturn:
    raise _NotJsonError(scalar)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _NotJsonError(digits)
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS or math.isinf(number := float(digits)):
        raise _NotJsonError(digits)
    return number


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_float
)

_quick_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_integer, parse_float=_float)
_quick_scan: Callable[[str, int], tuple[Any, int]] = cast("Any", _quick_decoder).scan_once
_scan: Callable[[str, int], tuple[Any, int]] = cast("Any", _decoder).scan_once

_TOKEN = re.compile(r'("(?:[^"\\]++|\\.)*+")|([{}\[\],:])|([^\s{}\[\],:"]+)', re.DOTALL)


def places(text: str) -> Iterator[tuple[Where, int, bool]]:
    """Every key and every value of a JSON text: the way to it, its 0-based offset, and whether it is a key."""
    ways: list[str | int] = []
    key_next = False
    for found in _TOKEN.finditer(text):
        string, mark, _ = found.groups()
        if mark == ":":
            continue
        if mark in ("}", "]"):
            key_next = False
            if ways:
                ways.pop()
        elif mark == ",":
            last = ways[-1] if ways else 0
            key_next = isinstance(last, str)
            if isinstance(last, int) and ways:
                ways[-1] = last + 1
        elif key_next and string:
            key_next = False
            ways[-1] = _unquoted(string)
            yield tuple(ways), found.start(), True
        else:
            yield tuple(ways), found.start(), False
            if mark == "{":
                ways.append("")
                key_next = True
            elif mark == "[":
                ways.append(0)


def _unquoted(string: str) -> str:
    try:
        return json.loads(string, strict=False)
    except ValueError:
        return string[1:-1]


def offset_of(text: str, way: Where) -> int:
    """Where the value stands that ``way`` leads to; its nearest existing parent's place where there is none."""
    nearest, length = 0, 0
    for place, offset, is_key in places(text):
        if is_key:
            continue
        if place == way:
            return offset
        if length < len(place) < len(way) and place == way[: len(place)]:
            nearest, length = offset, len(place)
    return nearest


def _offset_of_scalar(text: str, scalar: str) -> int:
    for _, offset, is_key in places(text):
        if not is_key and text.startswith(scalar, offset):
            return offset
    return 0
