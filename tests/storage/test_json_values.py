"""What JSON or a database cannot hold is replaced, wherever it stands in a value."""

import json
import math

import pytest

from celora.storage.json_values import storable


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null_wherever_it_stands(number):
    assert storable({"a": [number, (number,), {"b": number}]}) == {"a": [None, [None], {"b": None}]}


def test_nul_and_lone_surrogates_become_replacement_characters_in_texts_and_keys():
    held = storable({"k\x00": ["a\x00b", {"\udfff": "c\ud800"}], "pair": "\ud83d\ude00"})
    assert held == {"k\ufffd": ["a\ufffdb", {"\ufffd": "c\ufffd"}], "pair": "\U0001f600"}
    assert "\\u0000" not in json.dumps(held)
    json.dumps(held, ensure_ascii=False).encode()


def test_everything_else_stays_and_keys_become_text():
    kept = [1.5, "x", "\U0001f600", None, True, 10**30]
    assert storable({1: kept}) == {"1": kept}
