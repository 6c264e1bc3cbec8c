import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.tuning.answering.answer_text import INCOMPLETE, AnswerText


@pytest.mark.parametrize(
    ("stop", "texts", "parts"),
    [
        ([], ["Hi", "Hi you"], ["Hi", " you", ""]),
        (["END"], ["Hi", "Hi E", "Hi EN, you"], ["Hi", " ", "EN, you", ""]),
        (["END"], ["Hi E", "Hi END and more"], ["Hi ", "", ""]),
        (["b", "ab"], ["xaby"], ["x", ""]),
        ([], ["a" + INCOMPLETE, "aé"], ["a", "é", ""]),
        ([], ["a" + INCOMPLETE], ["a", INCOMPLETE]),
        (["aab"], ["aa", "aaa", "aaab"], ["", "a", "", ""]),
    ],
    ids=["none", "a stop that is none", "a stop in two parts", "the earliest stop", "a character in two parts",
         "a broken character", "a stop that begins twice"],
)  # fmt: skip
def test_parts_are_released_when_no_later_token_can_change_them(stop, texts, parts):
    text = AnswerText(stop)
    assert [*map(text.grow, texts), text.end(texts[-1])] == parts


@given(
    st.lists(st.text("ab\ufffd", max_size=3), max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3)
)
def test_the_parts_together_are_the_text_before_the_first_stop(tokens, stop):
    whole = "".join(tokens)
    text, parts = AnswerText(stop), []
    for count in range(1, len(tokens) + 1):
        parts.append(text.grow("".join(tokens[:count])))
        if text.stopped:
            break
    parts.append(text.end(whole))
    ends = [place for one in stop if (place := whole.find(one)) >= 0]
    assert "".join(parts) == text.text == whole[: min(ends, default=len(whole))]
    assert text.stopped == bool(ends)
