"""A gate in a job spec: typed, and refused at the door with the nearest name."""

import pytest

from celora.errors import SettingsError
from celora.models.promotion_gate import Gate
from celora.models.spec import JobSpec, parse_spec

SPEC = {"base_model": "tiny", "dataset": "train.jsonl", "eval_dataset": "eval.jsonl", "champion": "bot"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"gate": {"metric": "exct_match"}},
            "gate.metric: 'exct_match' is no metric of a gate; did you mean exact_match?",
        ),
        ({"gate": {"metric": "ROUGE-L"}}, "did you mean rouge_l?"),
        ({"gate": {"must_not_regress": ["bluu"]}}, "did you mean bleu?"),
        ({"gate": {"min_gian": 1}}, "min_gian is no field of a gate; did you mean min_gain?"),
        ({"gate": {"min_gain": -1}}, "gate.min_gain: Input should be greater than or equal to 0"),
        ({"gate": {"confidence": 1}}, "gate.confidence"),
        ({"gate": {"must_not_regress": ["preference"]}}, "has no value of its own"),
        ({"gate": "exact_match"}, "gate: "),
        ({"eval_dataset": None}, "champion: bot needs rows to be compared on"),
        ({"champion": None, "gate": {}}, "gate: it belongs to a champion"),
        ({"champion": "../bot"}, "champion: "),
        ({"metrics": ["rouge"]}, "its gate asks for exact_match, and metrics does not name exact_match"),
        ({"eval_max_rows": 0}, "its gate asks for exact_match, and eval_max_rows is 0"),
        ({"eval_dataset": {"must_pass": "x.jsonl"}}, "must_pass is what the gate's must_pass rows are called"),
    ],
)
def test_what_no_contest_can_be_is_refused_at_the_door(fields, said):
    with pytest.raises(SettingsError) as caught:
        parse_spec(SPEC | fields)
    assert said in str(caught.value)


def test_the_default_gate_is_exact_match_at_ninety_five_percent():
    spec = parse_spec(SPEC)
    assert spec.gate is None
    assert spec.contest == Gate(metric="exact_match", confidence=0.95)


def test_a_gate_survives_the_record_and_a_message():
    spec = parse_spec(SPEC | {"gate": {"metric": "eval_loss", "must_pass": "sure@2", "min_gain": "0.5"}, "metrics": []})
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert spec.contest.min_gain == 0.5


def test_the_loss_and_people_need_no_answers():
    for metric in ("eval_loss", "preference"):
        assert parse_spec(SPEC | {"metrics": [], "gate": {"metric": metric}}).contest.metric == metric
