"""A text for comparisons: what it leaves out, and that its cost grows with the text alone."""

import time
import unicodedata

import pytest

from celora.tuning.plain_text import LONG_TEXT, normalised


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("  Hi\n there ", "hi there"),
        ("\uff28i\u3000There", "hi there"),
        ("Stra\u00dfe", "strasse"),
        ("e\u0301", "\u00e9"),
    ],
)
def test_form_case_and_white_space_are_left_out(text, told):
    assert normalised(text) == told


def test_a_long_text_is_composed_as_a_short_one_word_by_word():
    words = "Cafe\u0301 \uff21\u00a0\u1e9b\u0323 \u0627\u0644 " * (LONG_TEXT // 4)
    assert len(words) > LONG_TEXT
    assert normalised(words) == " ".join(unicodedata.normalize("NFKC", words).casefold().split())


def test_a_word_of_combining_marks_costs_in_proportion_to_its_length():
    """In CPU time of this thread; sorting the whole word costs a hundred times as much for ten times the length."""

    def cost_s(marks):
        text = "a" + "\u0301\u0316" * marks
        begin = time.thread_time()
        normalised(text)
        return time.thread_time() - begin

    assert min(cost_s(100_000) / cost_s(10_000) for _ in range(3)) < 30
