"""Finds likely secrets and personal data in a text, and masks them.

A find is a likeness, not a proof: it warns. Numbers only count as a card or an account if the check digits agree (Luhn,
ISO/IEC 7812-1 annex B; mod 97, ISO 13616), so that a dataset of sums is not full of cards. A find is never printed: a
mask with the kind stands in its place.
"""

import re
from collections.abc import Callable, Iterator

from ...settings.secret_patterns import PRIVATE_KEY, TOKEN

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w-])")
_KEY_HINTS = (
    b"hf_",
    b"sk-",
    b"AKIA",
    b"ASIA",
    b"ghp_",
    b"gho_",
    b"ghu_",
    b"ghs_",
    b"ghr_",
    b"github_pat_",
    b"xox",
    b"AIza",
)
_KEY_CHARACTERS = bytes(
    ord("a") if re.match(r"[A-Za-z0-9_-]", chr(byte), re.ASCII) else ord(" ") for byte in range(256)
)
_SHORTEST_KEY = b"a" * 20
_NUMBER_HINT = re.compile(r"[0-9](?:[ ()./-]{0,2}[0-9]){7}")
_SEPARATORS = b" ()./-"
_DIGITS_AS_ZERO = bytes(ord("0") if chr(byte) in "0123456789" else ord("x") for byte in range(256))
_EIGHT_DIGITS = b"0" * 8
_MAIL_BEFORE = re.compile(r"[\w.+-]")
_MAIL_AFTER = re.compile(r"[A-Za-z0-9-]")
_CARD = re.compile(r"(?<![\d.,])[3-6](?:[ -]?\d){12,18}(?![\d]|[.,]\d)")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])")
_PHONE = re.compile(
    r"(?<![\w.,+])(?<!\d[ -])(?:\+\d{1,3}(?:[ ()./-]{0,2}\d){7,12}"  # international
    r"|(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}"  # North America
    r"|0\d{2,4}[ /-]\d{3,4}[ -]?\d{2,5})(?![ -]?\d|[.,]\d)"  # national, with the trunk zero
)


def find(text: str) -> list[tuple[str, int, int]]:
    """Find likely secrets and personal data: ``(kind, start, end)``, in the text's order, none inside another.

    Kinds: ``e-mail``, ``phone``, ``card``, ``iban``, ``api key``, ``private key``.
    """
    plain = text.encode(errors="replace")
    if not (
        b"@" in plain
        or b"PRIVATE KEY" in plain
        or _SHORTEST_KEY in plain.translate(_KEY_CHARACTERS)
        or _EIGHT_DIGITS in plain.translate(_DIGITS_AS_ZERO, _SEPARATORS)
    ):
        return []
    found: list[tuple[str, int, int]] = []
    for kind, pattern, holds in _looks(text, plain):
        matches = [(kind, *match.span()) for match in pattern.finditer(text) if holds(match[0])]
        found = _merged(found, matches) if found else matches
    return found


def _merged(found: list[tuple[str, int, int]], more: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Merge both lists in the text's order, without items of the second that overlap the first's; in linear time."""
    merged: list[tuple[str, int, int]] = []
    at = 0
    for one in more:
        while at < len(found) and found[at][2] <= one[1]:
            merged.append(found[at])
            at += 1
        if at == len(found) or one[2] <= found[at][1]:
            merged.append(one)
    return merged + found[at:]


def masked(text: str) -> str:
    """Replace everything that ``find`` returns by its kind.

    Example:
        ``Write to ada@example.org`` becomes ``Write to [e-mail masked]``.
    """
    parts: list[str] = []
    at = 0
    for kind, start, end in find(text):
        parts += (text[at:start], f"[{kind} masked]")
        at = end
    return "".join([*parts, text[at:]])


def _looks(text: str, plain: bytes) -> Iterator[tuple[str, re.Pattern[str], Callable[[str], bool]]]:
    """Yield the patterns that are worth a search, the most specific first.

    Checks that cost one pass over the bytes each, in C, spare most texts all of the patterns: is there a run of letters
    and digits as long as the shortest key, and do eight digits follow each other without their possible separators?
    """
    if "PRIVATE KEY" in text:
        yield "private key", PRIVATE_KEY, _anything
    if _maybe_key(plain):
        yield "api key", TOKEN, _anything
    if _maybe_mail(text):
        yield "e-mail", _EMAIL, _anything
    if _EIGHT_DIGITS in plain.translate(_DIGITS_AS_ZERO, _SEPARATORS) and _NUMBER_HINT.search(text):
        yield "iban", _IBAN, _is_iban
        yield "card", _CARD, _is_card
        yield "phone", _PHONE, _anything


def _maybe_key(plain: bytes) -> bool:
    """Return whether a run of key characters is as long as the shortest key, and holds a key's beginning."""
    runs = plain.translate(_KEY_CHARACTERS)
    start = runs.find(_SHORTEST_KEY)
    while start >= 0:
        end = runs.find(b" ", start) % (len(runs) + 1)  # (without a separator, the end of the text)
        run = plain[start:end]
        if any(hint in run for hint in _KEY_HINTS):
            return True
        start = runs.find(_SHORTEST_KEY, end)
    return False


def _maybe_mail(text: str) -> bool:
    """Return whether some @ has an address's characters on both sides; the @ of a decorator or a name has not."""
    at = text.find("@")
    while at >= 0:
        if at and _MAIL_BEFORE.match(text, at - 1) and _MAIL_AFTER.match(text, at + 1):
            return True
        at = text.find("@", at + 1)
    return False


def _anything(_text: str) -> bool:
    return True


def _is_card(text: str) -> bool:
    """Check Luhn's sum (ISO/IEC 7812-1 annex B): every second digit from the right doubled, digits added, ends in 0."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = [digit if number % 2 == 0 else digit * 2 - 9 * (digit > 4) for number, digit in enumerate(digits)]  # noqa: PLR2004
    return len(set(digits)) > 1 and sum(doubled) % 10 == 0  # (no card's number is one digit again and again)


def _is_iban(text: str) -> bool:
    """Check mod 97: the first four characters moved to the end, letters as 10 to 35, leave 1 when divided by 97."""
    plain = text.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1
