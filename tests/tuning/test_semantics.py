"""Which mended faults may have touched an adapter, by what the record knows of its data and base."""

import pytest

from celora.tuning.semantics import SEMANTICS, Trained, faults_of

PLAIN = {"template": "own", "files": [{"rows_by_format": {"chat": 9}, "ignored_keys": {"id": 9}}]}


def told(base, receipt=PLAIN):
    return [fault.found for fault in faults_of(Trained.of(base, receipt))]


@pytest.mark.parametrize(
    ("base", "receipt", "words"),
    [
        ({"kind": "catalogue", "model_type": "llama"}, PLAIN, ["came from a .gguf file"]),
        ({"kind": "gguf", "model_type": "qwen3"}, PLAIN, ["came from a .gguf file", "write or cut thoughts"]),
        ({"kind": "hub", "model_type": "phi3"}, PLAIN, ["beyond its end token"]),
        ({"kind": "hub", "model_type": "mistral"}, PLAIN, ["tool calls"]),
        ({"kind": "hub", "model_type": "mistral"}, {**PLAIN, "files": []}, []),
        ({"kind": "hub", "model_type": "phi3"}, {**PLAIN, "template": "chatml"}, []),
        ({"kind": "hub", "model_type": "llama"}, PLAIN, []),
        (
            {"kind": "hub", "model_type": "llama"},
            {"files": [{"ignored_keys": {"thinking": 2, "system": 1, "source": 3}}]},
            ["its rows had system, thinking, which was not read"],
        ),
        (
            {"kind": "hub", "model_type": "llama"},
            {**PLAIN, "sets": {"train": {"boundary": {"checked": 100, "merged": 7}}, "eval": {}}},
            ["in 7 of its checked rows prompt and answer shared a token"],
        ),
        ({}, {}, []),
    ],
)
def test_each_fault_is_named_for_the_adapters_that_it_may_have_touched(base, receipt, words):
    found = told(base, receipt)
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


def test_an_adapter_of_the_present_versions_is_touched_by_none():
    for kind, model_type in (("gguf", "qwen3"), ("hub", "phi3"), ("catalogue", "mistral")):
        assert told({"kind": kind, "model_type": model_type}, {**PLAIN, "semantics": SEMANTICS}) == []


def test_a_fault_counts_for_the_versions_before_its_fix_alone():
    receipt = {**PLAIN, "sets": {"train": {"boundary": {"merged": 7}}}, "semantics": {**SEMANTICS, "templates": 2}}
    (found,) = told({"kind": "hub", "model_type": "phi3"}, receipt)
    assert "shared a token" in found


def test_a_shared_token_counts_longer_where_everything_carried_loss():
    receipt = {**PLAIN, "sets": {"train": {"boundary": {"merged": 7}}}, "semantics": {**SEMANTICS, "templates": 3}}
    assert told({"kind": "hub", "model_type": "llama"}, receipt) == []
    (found,) = told({"kind": "hub", "model_type": "llama"}, {**receipt, "completion_only": False})
    assert "shared a token" in found


def test_only_the_parts_that_are_older_count():
    receipt = {**PLAIN, "semantics": {**SEMANTICS, "tokenizers": 1}}
    assert told({"kind": "gguf", "model_type": "qwen3"}, receipt) == [
        "its base came from a .gguf file, whose words may have been cut by another model's rules"
    ]
