from collections import Counter

import pytest

from celora.tuning.files.faults import Fault
from celora.tuning.rows.data_file import BadRowsError, require_good
from celora.tuning.rows.formats import KNOWN_KEYS
from celora.tuning.rows.keys import HARMLESS, REFUSED, refuse_keys, unknown
from celora.tuning.rows.row_reader import read, rows

PAIR = {"prompt": "q", "completion": "a"}


def test_no_key_is_in_two_lists():
    assert not HARMLESS & REFUSED.keys()
    assert not KNOWN_KEYS & REFUSED.keys()


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_a_key_that_changes_the_meaning_of_a_row_is_refused_with_what_to_do(key):
    with pytest.raises(Fault, match=key) as caught:
        refuse_keys({key: ["x"]}, ("messages", 1))
    assert (caught.value.kind, caught.value.at) == ("refused_key", ("messages", 1, key))
    refuse_keys({key: None})
    refuse_keys({key: []})


def test_pictures_are_refused_in_a_row_and_in_a_message(only_bad):
    assert only_bad({**PAIR, "images": ["a.png"]}).path == "images"
    turns = [{"role": "user", "content": "q", "images": ["a.png"]}, {"role": "assistant", "content": "a"}]
    assert only_bad({"messages": turns}).path == "messages[0].images"


def test_keys_of_unknown_meaning_are_counted_without_the_harmless_ones():
    assert unknown(Counter({"id": 3, "messages[].id": 3, "mood": 2, "messages[].tone": 1})) == {
        "mood": 2, "messages[].tone": 1
    }  # fmt: skip


def test_an_unknown_key_is_warned_of_with_its_count_and_a_harmless_one_is_a_note(write):
    data = read(write({**PAIR, "id": 1, "mood": "x"}, {**PAIR, "id": 2, "mood": None}))
    require_good(data)
    assert "mood (1 rows)" in data.warnings[0]
    assert data.notes == ["keys that are not used: id (2 rows)"]


def test_unknown_keys_are_refused_or_ignored_as_asked(write):
    path = write(PAIR, {**PAIR, "mood": "x"}, {**PAIR, "mood": "y"})
    reading = rows(path, unknown_keys="refuse")
    assert [bad.line for bad in reading if hasattr(bad, "kind")] == [2]
    assert reading.data.bad.counts == {"unknown_key": 2}
    with pytest.raises(BadRowsError, match="the key 'mood' is not read"):
        require_good(reading.data)
    reading = rows(path, unknown_keys="ignore")
    list(reading)
    assert (reading.data.warnings, reading.data.notes) == ([], ["keys that are not used: mood (2 rows)"])
