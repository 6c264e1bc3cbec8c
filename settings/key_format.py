"""Defines the form of an API key: ``celora_``, 256 random bits in base 62, and six check digits.

The check digits are the CRC-32 of what stands before them. They tell a key from a word that resembles one without a
look into the record: a scanner of leaked secrets needs that, and a mistyped key costs no query.
"""

import re
import secrets
import string
import zlib

PREFIX = "celora_"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_BYTES = 32
RANDOM_DIGITS, CHECK_DIGITS = 43, 6
"""Digits of 256 bits and of 32 bits in base 62."""

KEY = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{RANDOM_DIGITS + CHECK_DIGITS}}}(?![0-9A-Za-z])")


def new_key() -> str:
    """Make a key from the system's random numbers."""
    body = PREFIX + _digits(int.from_bytes(secrets.token_bytes(RANDOM_BYTES)), RANDOM_DIGITS)
    return body + _check_digits(body)


def is_key(words: str) -> bool:
    """Check the form and the check digits of a key."""
    return KEY.fullmatch(words) is not None and _check_digits(words[:-CHECK_DIGITS]) == words[-CHECK_DIGITS:]


def _check_digits(body: str) -> str:
    return _digits(zlib.crc32(body.encode()), CHECK_DIGITS)


def _digits(number: int, width: int) -> str:
    """Write a number in base 62, with zeros in front."""
    found: list[str] = []
    for _ in range(width):
        number, digit = divmod(number, len(ALPHABET))
        found.append(ALPHABET[digit])
    return "".join(reversed(found))
