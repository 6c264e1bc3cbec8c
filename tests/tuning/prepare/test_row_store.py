from dataclasses import fields

import numpy as np
import pytest

from celora.tuning.prepare import row_store
from celora.tuning.prepare.row_store import RowStore, choose_rows
from celora.tuning.rows.row import Row

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"a": "ü"}'}}


def talk(number):
    messages = [{"role": "user", "content": f"q{number}\n\u2028"}, {"role": "assistant", "content": f"a{number} é 漢"}]
    return Row(messages, [0, 1], number + 1)


ROWS = [
    *map(talk, range(4)),
    Row([{"role": "system", "content": ""}, {"role": "assistant", "content": "a\0b"}], [0, 1], 3),
    Row([{"role": "assistant", "content": "", "tool_calls": [CALL]}], [1], 77, tools=TOOLS),
    Row([{"role": "assistant", "content": "once upon a time"}], [1], 78, plain=True),
    Row([{"role": "assistant", "content": "good"}], [1], 79, wanted=True),
    Row([{"role": "assistant", "content": "bad"}], [1], 80, wanted=False),
]


@pytest.fixture
def store(tmp_path):
    store = RowStore(tmp_path)
    for row in ROWS:
        store.append(row)
    return store


def test_rows_come_back_as_they_were_whatever_their_kind(store):
    assert list(store) == ROWS
    assert [store[number] for number in (6, 0, -2)] == [ROWS[6], ROWS[0], ROWS[-2]]
    assert store[2:4] == ROWS[2:4]
    assert len(store) == 9
    used = {field.name for field in fields(Row) if any(getattr(row, field.name) for row in ROWS)}
    assert used == {field.name for field in fields(Row)}, "a new field of a row has no example here"


def test_a_row_that_is_not_there_is_an_index_error(store):
    with pytest.raises(IndexError):
        store[len(ROWS)]


@pytest.mark.parametrize("read_bytes", [1, 100, 1 << 20])
def test_chosen_rows_are_read_in_their_order_whatever_fits_into_one_read(store, monkeypatch, read_bytes):
    monkeypatch.setattr(row_store, "READ_BYTES", read_bytes)
    wanted = np.array([True, False, False, True, True, False, True, False, False])
    chosen = choose_rows(store, wanted)
    assert list(chosen) == [ROWS[0], ROWS[3], ROWS[4], ROWS[6]]
    again = choose_rows(chosen, np.array([False, True, False, True]))
    assert list(again) == [ROWS[3], ROWS[6]]
    assert (len(again), again[1], again[-1], again[:1]) == (2, ROWS[6], ROWS[6], [ROWS[3]])
    assert list(choose_rows(store, ~wanted & wanted)) == []
    assert choose_rows(store, wanted | True) is store


def test_rows_in_a_list_are_chosen_alike():
    assert choose_rows(ROWS, np.arange(len(ROWS)) == 3) == [ROWS[3]]


def test_nothing_is_left_on_disk(tmp_path, store):
    assert list(tmp_path.iterdir()) == []
    assert store[0] == ROWS[0]
