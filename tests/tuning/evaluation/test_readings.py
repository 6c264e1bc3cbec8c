"""Tool calls that were expected beside those that were made."""

import pytest

from celora.tuning.evaluation.readings import Reading, tool_scores
from celora.tuning.templates.call_form import Call

LIMA, ROME = Call("weather", {"city": "Lima", "days": 2}), Call("weather", {"city": "Rome", "days": 2})


@pytest.mark.parametrize(
    ("wanted", "given", "scores"),
    [
        ((LIMA,), (Call("weather", {"days": 2, "city": "Lima"}),), {"tool_name": 1, "tool_arguments": 1}),
        ((LIMA,), (ROME,), {"tool_name": 1, "tool_arguments": 0}),
        ((LIMA,), (Call("time", LIMA.arguments),), {"tool_name": 0, "tool_arguments": 0}),
        ((LIMA,), (), {"tool_name": 0, "tool_arguments": 0, "tool_under": 1}),
        ((LIMA,), (LIMA, ROME), {"tool_name": 0, "tool_arguments": 0, "tool_over": 1}),
        ((LIMA, ROME), (LIMA,), {"tool_name": 0, "tool_arguments": 0, "tool_under": 1}),
        ((), (LIMA,), {"tool_over": 1}),
        ((), (), {}),
    ],
)
def test_names_arguments_and_the_number_of_calls_are_measured_apart(wanted, given, scores):
    found = tool_scores(Reading("", "", wanted), Reading("", "", given))
    assert found == {"tool_over": 0, "tool_under": 0} | scores


def test_a_row_without_tools_is_not_measured_by_its_calls():
    assert tool_scores(Reading("x", "x"), Reading("x", "x", (LIMA,))) == {}
