"""Labels: one text for the same names in any order; names that no label has are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.errors import SettingsError
from celora.models.queue.labels import LONGEST_TEXT, label_text


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,9}", fullmatch=True), max_size=8))
def test_the_same_names_in_any_order_are_one_text(names):
    text = label_text(names)
    assert text == label_text(reversed(names)) == label_text([*names, *names])
    assert text.split(",") == sorted(set(names)) or not names


@pytest.mark.parametrize("wrong", ["Team", "a b", "-a", "é", "a,b", "x" * 33, "a\nb", "a=1", ".."])
def test_odd_letters_are_refused_with_those_that_are_not(wrong):
    with pytest.raises(SettingsError, match="can't be a label") as refused:
        label_text(["fine", wrong])
    assert "small letters" in refused.value.hint


def test_too_many_are_refused():
    with pytest.raises(SettingsError, match="9 labels"):
        label_text([f"l{number}" for number in range(9)])
    with pytest.raises(SettingsError, match="too many"):
        label_text([f"{number}" + "x" * 31 for number in range(8)])
    assert len(label_text([f"{number}" + "x" * 30 for number in range(8)])) == LONGEST_TEXT


def test_no_labels_are_no_text():
    assert label_text([]) == label_text(["", " "]) == ""
