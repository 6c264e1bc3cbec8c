"""Likely secrets and personal data in a text: where they stand, and the text with them masked.

A likeness, not a proof: it warns. Numbers are only taken for a card or an account where their check digits agree (Luhn,
ISO/IEC 7812-1 annex B; mod 97, ISO 13616), so that a dataset of sums is not full of cards. What is found is never
printed: a mask with the kind stands in its place.
"""

import re
from collections.abc import Callable, Iterator

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w-])")
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}(?![0-9A-Z])"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[0-9A-Za-z_-]{35})"
)
_KEY_HINTS = ("_", "sk-", "AKIA", "xox", "AIza")
_PRIVATE = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----(?:.*?-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----|.*)", re.DOTALL
)
_NUMBER_HINT = re.compile(r"[0-9](?:[ ()./-]{0,2}[0-9]){7}")
_CARD = re.compile(r"(?<![\d.,])[3-6](?:[ -]?\d){12,18}(?![\d]|[.,]\d)")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])")
_PHONE = re.compile(
    r"(?<![\w.,+])(?<!\d[ -])(?:\+\d{1,3}(?:[ ()./-]{0,2}\d){7,12}"  # international
    r"|(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}"  # North America
    r"|0\d{2,4}[ /-]\d{3,4}[ -]?\d{2,5})(?![ -]?\d|[.,]\d)"  # national, with the trunk zero
)


def find(text: str) -> list[tuple[str, int, int]]:
    """What a text likely holds: ``(kind, start, end)``, in the text's order, none inside another.

    Kinds: ``e-mail``, ``phone``, ``card``, ``iban``, ``api key``, ``private key``.
    """
    found: list[tuple[str, int, int]] = []
    for kind, pattern, holds in _looks(text):
        for match in pattern.finditer(text):
            start, end = match.span()
            if holds(match[0]) and not any(start < other_end and other < end for _, other, other_end in found):
                found.append((kind, start, end))
    return sorted(found, key=lambda item: item[1]) if len(found) > 1 else found


def masked(text: str) -> str:
    """The text with everything that ``find`` sees replaced by its kind.

    Example:
        ``Write to ada@example.org`` becomes ``Write to [e-mail masked]``.
    """
    parts: list[str] = []
    at = 0
    for kind, start, end in find(text):
        parts += (text[at:start], f"[{kind} masked]")
        at = end
    return "".join([*parts, text[at:]])


def _looks(text: str) -> Iterator[tuple[str, re.Pattern[str], Callable[[str], bool]]]:
    """The patterns worth a look, the most specific first; cheap questions save most texts all of them."""
    if "PRIVATE KEY" in text:
        yield "private key", _PRIVATE, _anything
    if any(hint in text for hint in _KEY_HINTS):
        yield "api key", _KEY, _anything
    if "@" in text:
        yield "e-mail", _EMAIL, _anything
    if _NUMBER_HINT.search(text):
        yield "iban", _IBAN, _is_iban
        yield "card", _CARD, _is_card
        yield "phone", _PHONE, _anything


def _anything(_text: str) -> bool:
    return True


def _is_card(text: str) -> bool:
    """Luhn: every second digit from the right doubled, its digits added; the sum ends in 0 (ISO/IEC 7812-1 annex B)."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = [digit if number % 2 == 0 else digit * 2 - 9 * (digit > 4) for number, digit in enumerate(digits)]  # noqa: PLR2004
    return len(set(digits)) > 1 and sum(doubled) % 10 == 0  # (no card's number is one digit again and again)


def _is_iban(text: str) -> bool:
    """The first four characters moved to the end, letters as 10 to 35: the number leaves 1 when divided by 97."""
    plain = text.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1
