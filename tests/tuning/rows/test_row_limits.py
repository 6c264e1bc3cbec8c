"""No row costs more than a few seconds: turns, keys and renderings of a row have limits, told with their numbers."""

import json

import pytest

from celora.tuning.files.faults import BadLine
from celora.tuning.rows import row_limits
from celora.tuning.rows.row_reader import rows


def talk(turns):
    return [{"role": ("user", "assistant")[n % 2], "content": f"t{n}"} for n in range(turns)]


def read(tmp_path, *made):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return list(rows(path))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": talk(3000)},
        {"conversations": [{"from": ("human", "gpt")[n % 2], "value": "a"} for n in range(3000)]},
        {"instruction": "a", "output": "b", "history": [["q", "a"]] * 1499},
    ],
    ids=["chat", "sharegpt", "history"],
)
def test_a_conversation_of_too_many_turns_is_refused_with_their_number(tmp_path, row):
    (bad,) = read(tmp_path, row)
    assert isinstance(bad, BadLine)
    assert "3,000 turns, and at most 1,000 are read" in bad.reason


def test_a_conversation_of_as_many_turns_as_may_be_is_read(tmp_path):
    (row,) = read(tmp_path, {"messages": talk(row_limits.MOST_TURNS)})
    assert len(row.messages) == row_limits.MOST_TURNS


def test_many_answers_in_a_long_text_are_refused_with_their_product(tmp_path, monkeypatch):
    monkeypatch.setattr(row_limits, "MOST_RENDERED", 5000)
    long = [{"role": "user", "content": "q" * 600}, {"role": "assistant", "content": "a"}]
    one, many = read(tmp_path, {"messages": long * 2}, {"messages": long * 3})
    assert not isinstance(one, BadLine)
    assert "3 answers in 1,803 characters; their product is too large" in many.reason


def test_one_answer_may_be_as_long_as_it_likes(tmp_path, monkeypatch):
    monkeypatch.setattr(row_limits, "MOST_RENDERED", 10)
    (row,) = read(tmp_path, {"prompt": "q" * 50, "completion": "a" * 50})
    assert not isinstance(row, BadLine)


def test_a_row_of_too_many_keys_is_refused_with_their_number(tmp_path):
    (bad,) = read(tmp_path, {"prompt": "q", "completion": "a", **{f"k{n}": 1 for n in range(5000)}})
    assert "5,002 keys, and at most 1,000 are read" in bad.reason
