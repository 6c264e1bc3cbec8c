import pytest
from pydantic import ValidationError

from celora.tuning.answering.messages import (
    Done,
    Refused,
    Started,
    Words,
    base_bytes,
    is_too_large,
    line_of,
    parse_event,
)
from celora.tuning.protocol import Base

BASE = Base(source="b", kind="hub", name="b", revision="r", parameters=100, context_tokens=8, model_type="llama")


@pytest.mark.parametrize(
    "event",
    [
        Started(prompt_tokens=3),
        Words(text="two\nlines \u2028 é"),
        Done(text="", finish_reason="length", prompt_tokens=1, completion_tokens=0),
        Refused(code="busy", message="later", facts={"n": 1}),
    ],
)
def test_an_event_is_one_line(event):
    line = line_of(event)
    assert line.count(b"\n") == 1
    assert parse_event(line) == event


def test_a_line_of_another_version_is_refused():
    with pytest.raises(ValidationError):
        parse_event(b'{"event": "sung", "text": "la"}')


def test_a_base_has_two_bytes_a_weight():
    assert base_bytes(BASE) == 200
    assert [is_too_large(BASE, most) for most in (199, 200)] == [True, False]
