import json

import pytest

from celora.tuning.rows.row import Preference, Unpaired
from celora.tuning.rows.row_reader import read


@pytest.fixture
def found(tmp_path):
    """What one row becomes: a canonical row, or the fault."""

    def found(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = read(path)
        return data.bad.shown[0] if data.bad.total else data.preferences[0]

    return found


def said(*turns):
    return [{"role": role, "content": words} for role, words in turns]


ASKED = said(("user", "Capital of Peru?"))
LIMA, QUITO = said(("assistant", "Lima.")), said(("assistant", "Quito."))
SAME = Preference(ASKED, LIMA, QUITO, 1)


@pytest.mark.parametrize(
    "row",
    [
        {"input": {"messages": ASKED, "tools": []}, "preferred_output": LIMA, "non_preferred_output": QUITO},
        {"input": {"messages": ASKED}, "preferred_completion": LIMA, "non_preferred_completion": QUITO},
        {"prompt": ASKED, "chosen": LIMA, "rejected": QUITO},
        {"chosen": ASKED + LIMA, "rejected": ASKED + QUITO},
        {"prompt": "Capital of Peru?", "chosen": " Lima.", "rejected": " Quito."},
        {"chosen": "Capital of Peru? Lima.", "rejected": "Capital of Peru? Quito."},
        {"instruction": "Capital of Peru?", "input": "", "chosen": "Lima.", "rejected": "Quito."},
        {
            "conversations": [{"from": "human", "value": "Capital of Peru?"}],
            "chosen": {"from": "gpt", "value": "Lima."},
            "rejected": {"from": "gpt", "value": "Quito."},
        },
    ],
    ids=["openai", "older openai", "trl", "implicit", "text", "implicit text", "alpaca", "sharegpt"],
)
def test_every_form_of_a_preference_becomes_the_same_row(found, row):
    assert found(row) == SAME


HH = "\n\nHuman: {}\n\nAssistant: {}"


def test_two_conversations_in_texts_differ_in_the_last_turn_alone(found):
    row = found({"chosen": HH.format("Capital of Peru?", "Lima."), "rejected": HH.format("Capital of Peru?", "Quito.")})
    assert (row.chosen, row.rejected) == (LIMA, QUITO)
    differs = {"chosen": HH.format("Capital of Peru?", "Lima."), "rejected": HH.format("Capital of Chile?", "Lima.")}
    fault = found(differs)
    assert (fault.kind, fault.fix) == ("prompts_differ", "give both answers the same prompt")


def test_two_conversations_whose_prompts_differ_are_refused_for_that(found):
    other = said(("user", "Capital of Chile?"))
    assert found({"chosen": ASKED + LIMA, "rejected": other + QUITO}).kind == "prompts_differ"
    assert found({"chosen": ASKED + LIMA, "rejected": ASKED + QUITO + other}).kind == "no_assistant"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "completion": LIMA, "label": True},
        {"prompt": "Capital of Peru?", "completion": " Lima.", "label": True},
        {"prompt": "Capital of Peru?", "completion": " Lima.", "label": "True"},
        {"messages": ASKED + LIMA, "kto_tag": True},
        {"instruction": "Capital of Peru?", "output": "Lima.", "kto_tag": True},
    ],
)
def test_every_form_of_an_unpaired_answer_becomes_the_same_row(found, row):
    assert found(row) == Unpaired(ASKED, LIMA, label=True, line=1)


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ({"prompt": ASKED, "chosen": LIMA, "rejected": LIMA}, "same_answers", "are the same"),
        ({"chosen": "Well. Yes", "rejected": "Well. "}, "same_answers", "beginning of the other"),
        ({"prompt": ASKED, "chosen": LIMA, "rejected": "Quito."}, "not_text", "of two kinds"),
        ({"prompt": ASKED, "chosen": "", "rejected": "x"}, "empty", "chosen is empty"),
        ({"prompt": ASKED + LIMA, "chosen": LIMA, "rejected": QUITO}, "no_user", "ends with the assistant's"),
        ({"prompt": ASKED, "chosen": ASKED, "rejected": QUITO}, "no_assistant", "begins with the user's"),
        ({"prompt": ASKED, "chosen": [], "rejected": QUITO}, "no_assistant", "has no message"),
        (
            {"input": {"messages": ASKED}, "preferred_output": LIMA + LIMA, "non_preferred_output": QUITO},
            "no_messages",
            "has 2 messages",
        ),
        ({"input": ASKED, "preferred_output": LIMA, "non_preferred_output": QUITO}, "no_messages", "input is a list"),
        ({"input": {}, "preferred_output": LIMA, "non_preferred_output": QUITO}, "missing_key", "no 'messages'"),
        ({"prompt": "a", "completion": "b", "label": "positive"}, "bad_label", "label is text"),
        ({"prompt": "a", "completion": "b", "label": 1}, "bad_label", "label is a number"),
        ({"prompt": said(("user", "a"), ("system", "b"), ("user", "c")), "chosen": LIMA, "rejected": QUITO},
         "system_not_first", "inside the prompt"),
    ],
)  # fmt: skip
def test_a_preference_that_teaches_nothing_is_named(found, row, kind, words):
    bad = found(row)
    assert bad.kind == kind
    assert words in bad.reason
    assert bad.fix


def test_one_sided_labels_are_told(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "a", "completion": "b", "label": True}
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": "c"}) + "\n")
    data = read(path)
    assert data.labels == {True: 2}
    assert "every row of rows.jsonl has the label true" in data.warnings[0]


@pytest.mark.parametrize("label", [True, False])
def test_a_label_beside_a_conversation_makes_it_an_unpaired_preference(tmp_path, label):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns, "label": label, "system": "s"}) + "\n")
    data = read(path)
    assert (data.format, data.trains, data.preferences[0].label) == ("unpaired", False, label)
    assert [message["role"] for message in data.preferences[0].prompt] == ["system", "user"]
