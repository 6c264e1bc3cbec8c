from collections import Counter

import pytest

from celora.tuning.files.faults import Fault
from celora.tuning.rows import fields


def test_a_field_is_text_or_a_fault_with_its_place():
    assert fields.text({"a": "b"}, "a") == "b"
    assert fields.text({"a": None}, "a", needed=False) == ""
    with pytest.raises(Fault) as caught:
        fields.text({"a": 7}, "a")
    assert (caught.value.kind, caught.value.at) == ("not_text", ("a",))
    with pytest.raises(Fault, match="a is empty"):
        fields.words({"a": " \n"}, "a")


@pytest.mark.parametrize(("value", "words"), [(None, "null"), (True, "true or false"), (1.5, "a number"), ({}, "an")])
def test_a_value_s_type_is_said_in_words(value, words):
    with pytest.raises(Fault, match=f"it is {words}"):
        fields.items(value, ("a",), "it", fault="bad", example="[]")


def test_new_keys_in_each_row_do_not_fill_the_memory():
    counts = Counter()
    for number in range(3000):
        fields.count_keys(counts, {f"key{number}", "same"})
    assert (len(counts), counts["same"]) == (1000, 3000)
