import numpy as np
import pytest

from celora.tuning.prepare.samples import MOST_SAMPLES, FirstRow, kinds_of, sample_pieces, samples
from celora.tuning.rows.row import Row
from celora.tuning.templates.loss_masks import Encoded

CALL = {"id": "c", "type": "function", "function": {"name": "stock", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "stock"}}


def row(*turns, weights=None, tools=()):
    """A row of turns: a role, or a role and further fields of the message."""
    pairs = [(turn, {}) if isinstance(turn, str) else turn for turn in turns]
    messages = [{"role": role, "content": "words", **fields} for role, fields in pairs]
    return Row(messages, weights or [int(role == "assistant") for role, _ in pairs], 1, list(tools))


@pytest.mark.parametrize(
    ("given", "lost", "kinds"),
    [
        (row("user", "assistant"), False, ["one answer"]),
        (row("system", "user", "assistant"), False, ["one answer", "a system text"]),
        (row("user", "assistant", "user", "assistant"), False, ["several answers"]),
        (
            row("user", "assistant", "user", "assistant", weights=[0, 0, 0, 1]),
            False,
            ["several answers", "an answer of weight 0"],
        ),
        (row("user", ("assistant", {"reasoning_content": "so"})), False, ["one answer", "a thought"]),
        (
            row("user", ("assistant", {"tool_calls": [CALL]}), "tool", "assistant", tools=[TOOL]),
            False,
            ["several answers", "declared tools", "a tool call", "a tool's result"],
        ),
        (
            row("user", ("assistant", {"tool_calls": [CALL, CALL]})),
            False,
            ["one answer", "several tool calls in one turn"],
        ),
        (
            row("user", "assistant", "user", "assistant"),
            True,
            ["several answers", "an answer whose words the template leaves out"],
        ),
        (Row([{"role": "assistant", "content": "words"}], [1], 1, plain=True), False, ["running text"]),
    ],
)
def test_the_kinds_of_a_row_and_of_its_turns(given, lost, kinds):
    assert list(kinds_of(given, lost=lost)) == kinds


def test_a_row_is_shown_once_for_all_kinds_that_it_is_the_first_of():
    rows = [(np.array([number, 7], dtype=np.int32), np.array([0, 1], dtype=np.uint8)) for number in range(20)]
    firsts = {"one": FirstRow(3, 14), "two": FirstRow(0, 11), "three": FirstRow(3, 14)}
    found = samples(rows, firsts, lambda tokens: "-".join(map(str, tokens)))
    assert [(sample["line"], sample["kinds"]) for sample in found] == [(11, ["two"]), (14, ["one", "three"])]
    assert found[1]["parts"] == [{"text": "3", "trained": False}, {"text": "7", "trained": True}]
    many = {str(number): FirstRow(number, number) for number in range(20)}
    assert len(samples(rows, many, str)) == MOST_SAMPLES


def test_a_sample_is_cut_where_loss_begins_and_ends():
    row = Encoded(np.arange(5, dtype=np.int32), np.array([0, 0, 1, 1, 0], dtype=np.uint8))
    pieces = sample_pieces(row, lambda tokens: " ".join(map(str, tokens)))
    assert pieces == [
        {"text": "0 1", "trained": False},
        {"text": "2 3", "trained": True},
        {"text": "4", "trained": False},
    ]
    long = sample_pieces(row, lambda _: "x" * 3000)
    assert [len(piece["text"]) for piece in long] == [3000, 1001]
