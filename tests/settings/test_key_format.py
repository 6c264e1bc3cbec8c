"""Keys: 256 random bits, check digits that catch a slip, and a form that redaction knows."""

import pytest

from celora.settings.key_format import ALPHABET, CHECK_DIGITS, PREFIX, RANDOM_BYTES, RANDOM_DIGITS, is_key, new_key
from celora.settings.redaction import MASK, Redactor


def test_a_key_is_one_and_no_two_are_alike():
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(is_key(key) and len(key) == 56 and key.startswith(PREFIX) for key in keys)


def test_the_digits_hold_all_the_bits():
    assert len(ALPHABET) ** RANDOM_DIGITS > 2 ** (8 * RANDOM_BYTES) > len(ALPHABET) ** (RANDOM_DIGITS - 1)
    assert len(ALPHABET) ** CHECK_DIGITS > 2**32


def test_every_slip_of_one_digit_is_seen():
    key = new_key()
    for place in range(len(PREFIX), len(key)):
        other = ALPHABET[(ALPHABET.index(key[place]) + 1) % len(ALPHABET)]
        assert not is_key(key[:place] + other + key[place + 1 :])


@pytest.mark.parametrize("change", [lambda key: "", lambda key: key[:-1], lambda key: key + "0", str.lower,
                                    lambda key: "sk-" + key, lambda key: key + "\n"])  # fmt: skip
def test_what_only_resembles_a_key_is_none(change):
    assert not is_key(change(new_key()))


def test_a_key_in_a_text_is_masked():
    key = new_key()
    assert Redactor().text(f"Authorization: Bearer {key}, said curl") == f"Authorization: Bearer {MASK}, said curl"
