"""Chooses the turns of a row that carry loss: the whole conversation, its last answer, or each answer as its own row.

``each`` suits templates that render an earlier turn differently from the last one (Qwen3 drops its thoughts): each
answer is trained after the very prompt that users send. A row of ``n`` answers then costs the tokens of ``n`` prompts,
so their number has a limit.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..recipe import Turns
from ..rows.row import Row

MOST_TURNS = 32
"""Most answers of one conversation that become rows of their own: the last ones."""


def asked_turn(row: Row) -> int:
    """Return the turn that a held-out row is asked for: the last one with loss, else the assistant's last."""
    trained = [number for number, weight in enumerate(row.weights) if weight]
    return trained[-1] if trained else max(n for n, turn in enumerate(row.messages) if turn["role"] == "assistant")


def left_out(row: Row, turns: Turns) -> int:
    """Return the number of a row's answers that ``each`` does not train, because the row has too many of them."""
    return max(sum(map(bool, row.weights)) - MOST_TURNS, 0) if turns == "each" and not row.plain else 0


def rows_of_turns(row: Row, turns: Turns) -> Sequence[Row]:
    """Return the rows to train that are made from one row.

    Example:
        With ``each``, a row of user, assistant, user, assistant becomes two: the first two messages, and all four with
        loss on the last alone.
    """
    trained = [number for number, weight in enumerate(row.weights) if weight]
    if turns == "whole" or row.plain or not trained:
        return [row]
    chosen = trained[-1:] if turns == "last" else trained[-MOST_TURNS:]
    return [
        replace(row, messages=row.messages[: number + 1], weights=[0] * number + [row.weights[number]])
        for number in chosen
    ]
