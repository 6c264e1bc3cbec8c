"""The form of calls, learned from two examples."""

import pytest

from celora.tuning.templates.call_form import ARGUMENTS, Call, learn

VALUES = {"celoraKey": "celoraValue", "celoraOther": "70411"}
FORMS = {
    "JSON between marks": (
        '<call>{"name": "celoraCalled", "arguments": {"celoraKey": "celoraValue", "celoraOther": 70411}}</call>'
    ),
    "arguments one by one": ("<f=celoraCalled>\n<p=celoraKey>\nceloraValue\n</p>\n<p=celoraOther>\n70411\n</p>\n</f>"),
    "as Python has it": '[celoraCalled(celoraKey="celoraValue", celoraOther=70411)]',
    "with an id": 'celoraCalled:0 {"celoraKey": "celoraValue", "celoraOther": 70411} #celoraId1',
}


def test_arguments_are_compared_as_json():
    assert Call("weather", {"city": "Lima", "days": 2}) == Call("weather", {"days": 2, "city": "Lima"})
    assert Call("weather", {"days": 2}) != Call("weather", {"days": "2"})


@pytest.mark.parametrize("name", FORMS)
def test_a_form_reads_the_example_that_it_was_learned_from_and_another_name_and_value(name):
    one = FORMS[name]
    form = learn(one, None)
    (call,), before, behind = form.read(one)
    assert (call.name, {key: str(value) for key, value in call.arguments.items()}) == ("celoraCalled", VALUES)
    assert (before, behind) == ("", "")
    other = one.replace("celoraCalled", "weather.now").replace("celoraValue", "São Paulo").replace(":0", ":12")
    (call,), *_ = form.read(f"Look: {other}" if not one.startswith("celora") else other)
    assert (call.name, call.arguments["celoraKey"]) == ("weather.now", "São Paulo")


def test_what_names_no_argument_is_no_form():
    assert learn("I call celoraCalled.", None) is None
    assert learn("", None) is None
    assert set(ARGUMENTS) == {"celoraKey", "celoraOther"}
