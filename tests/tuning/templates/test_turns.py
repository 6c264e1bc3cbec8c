import pytest

from celora.tuning.rows.row import Row
from celora.tuning.templates.turns import MOST_TURNS, asked_turn, left_out, rows_of_turns


def conversation(*weights):
    """A row of as many answers as weights are given."""
    messages = [{"role": role, "content": f"{role} {n}"} for n in range(len(weights)) for role in ("user", "assistant")]
    return Row(messages, [part for weight in weights for part in (0, weight)], 5)


def test_a_whole_conversation_is_one_row():
    row = conversation(1, 1)
    assert rows_of_turns(row, "whole") == [row]


def test_the_last_answer_alone_carries_loss():
    (only,) = rows_of_turns(conversation(1, 1, 0), "last")
    assert (len(only.messages), only.weights, only.line) == (4, [0, 0, 0, 1], 5)


def test_each_answer_becomes_a_row_that_ends_with_it():
    rows = rows_of_turns(conversation(1, 0, 1), "each")
    assert [len(row.messages) for row in rows] == [2, 6]
    assert [row.weights for row in rows] == [[0, 1], [0, 0, 0, 0, 0, 1]]


def test_a_conversation_of_very_many_answers_keeps_the_last_of_them():
    row = conversation(*[1] * (MOST_TURNS + 3))
    assert len(rows_of_turns(row, "each")) == MOST_TURNS
    assert left_out(row, "each") == 3
    assert left_out(row, "whole") == 0


@pytest.mark.parametrize(("weights", "asked"), [((1, 1), 3), ((1, 0), 1), ((0, 0), 3)])
def test_a_held_out_row_is_asked_for_its_last_answer_with_loss(weights, asked):
    assert asked_turn(conversation(*weights)) == asked


def test_running_text_has_no_turns():
    text = Row([{"role": "assistant", "content": "a b"}], [1], 1, plain=True)
    assert rows_of_turns(text, "each") == [text]
