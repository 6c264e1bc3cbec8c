"""The gate's decision and people's preference, in the sentences that commands print."""

import pytest
from records import detail

from celora.cli.champion_text import competed, contest, preferred, verdict

DECISION = {"name": "bot", "promote": True, "reason": "against first: exact match +25.0 points"}


def votes(wins, losses, neither=0):
    return {"against": "first", "wins": wins, "losses": losses, "neither": neither}


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((0, 0), "against first: undecided"),
        ((0, 0, 3), "against first: undecided, 3 times neither"),
        ((3, 1), "against first in 75% of 4 ratings (95 % interval 30% … 95%)"),  # Wilson's, as tables have it
        ((3, 1, 2), "against first in 75% of 4 ratings (95 % interval 30% … 95%, 2 times neither)"),
        ((0, 9), "against first in 0% of 9 ratings (95 % interval 0% … 30%)"),
    ],
)
def test_a_preference_is_told_with_its_interval(counts, words):
    assert preferred(votes(*counts)) == words


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (None, ""),
        ({}, ""),
        ({"champion": None}, ""),
        ({"champion": DECISION}, "bot: promoted, against first: exact match +25.0 points"),
        ({"champion": {**DECISION, "promote": False}}, "bot: kept out, against first: exact match +25.0 points"),
    ],
)
def test_the_decision_of_a_gate_is_a_sentence_where_there_is_one(summary, words):
    job = detail(summary=summary)
    assert competed(job) == words
    assert (verdict(job) or {}) == ((summary or {}).get("champion") or {})


def test_a_status_has_a_line_for_the_gate_and_one_for_each_rival():
    assert list(contest(detail())) == []
    job = detail(summary={"champion": DECISION}, preference=[votes(3, 1), votes(0, 0)])
    assert [name for name, _ in contest(job)] == ["champion", "preferred", "preferred"]
