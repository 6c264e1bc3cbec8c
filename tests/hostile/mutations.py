"""Seeded changes of a file's bytes and of a JSON value: what breaks the readers of files."""

import json
import random
from typing import Any

SPLICES = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\n", b"\r", b"\0", b" ", b"\t", b"'", b";", b"-", b"#"),
    *(b"\\ud800", b"\\u0000", b"\\u", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80"),
    *(b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"9" * 500, b"[" * 100, b'{"a":' * 100, b'"x":1,"x":2,'),
    *(b'"messages"', b'"role"', b'"tool"', b'"prompt"', b'"text"', b'"weight":2,', b'"content":null,', b"PAR1", b'""'),
]
ODD = (
    *(None, True, False, 0, -1, 1, 2**31, 2**62, 2**63, 10**400, 1.5, -0.0, "", "x", "1", "\x00", "\ud800"),
    *([], {}, [[]], {"": {}}, ["x"], [1, 2], {"a": [1]}, "x" * 3000, "/etc/passwd", "../x", [0] * 2000),
)
"""Values of a wrong kind or size for any field of a JSON file."""


def mutated(content: bytes, dice: random.Random) -> bytes:
    """The content with one to four changes."""
    made = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4))):
        at, size = dice.randrange(len(made) + 1), dice.choice((1, 1, 2, 5, 20, 100))
        match dice.randrange(8):
            case 0 if at < len(made):
                made[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(made):
                made[at] = dice.randrange(256)
            case 2:
                del made[at : at + size]
            case 3:
                made[at:at] = dice.choice(SPLICES)
            case 4:
                made[at : at + size] = dice.choice(SPLICES)
            case 5:
                made[at:at] = made[at : at + size] * dice.choice((1, 2, 50))
            case 6:
                del made[at:]
            case _:
                other = dice.randrange(len(made) + 1)
                made[other:other] = made[at : at + size]
    return bytes(made)


def altered(value: Any, dice: random.Random) -> Any:
    """Copy a JSON value with one part of it replaced by an odd value, removed or nested."""
    if isinstance(value, dict | list) and value and dice.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = dice.choice(keys)
        copy = dict(value) if isinstance(value, dict) else list(value)
        if dice.random() < 0.1:
            del copy[key]
        else:
            copy[key] = altered(value[key], dice)
        return copy
    if dice.random() < 0.05:
        return nested(dice.choice((70, 900, 50_000)))
    return dice.choice(ODD)


def nested(depth: int) -> "Nested":
    """Stand for a list in a list, so many levels deep; ``text_of`` writes it."""
    return Nested(depth)


class Nested(int):
    """A depth; see ``nested``."""


def text_of(value: Any) -> bytes:
    """A JSON value as bytes; deeper than ``json`` itself can write."""
    found: list[int] = []

    def put(part: Any) -> Any:
        if isinstance(part, Nested):
            found.append(int(part))
            return f"<<deep {len(found) - 1}>>"
        if isinstance(part, dict):
            return {key: put(item) for key, item in part.items()}
        return [put(item) for item in part] if isinstance(part, list) else part

    text = json.dumps(put(value))
    for number, depth in enumerate(found):
        text = text.replace(f'"<<deep {number}>>"', "[" * depth + "]" * depth)
    return text.encode()
