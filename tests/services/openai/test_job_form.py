"""The request that makes a job: both places of hyperparameters, the object celora, and what is refused."""

import pytest
from pydantic import ValidationError

from celora.errors import RequestError
from celora.services.openai.job_form import JobForm, check_fields, refuse_unsupported, spec_fields

NEEDED = {"model": "m", "training_file": "f"}
SPEC = {"base_model": "m", "dataset": "d"}


def form(**fields):
    return JobForm.model_validate({**NEEDED, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2,
                                                                            "learning_rate_multiplier": 0.5}}}},
        {"hyperparameters": {}, "method": {"type": "supervised", "supervised": {"hyperparameters":
                                           {"n_epochs": 2, "learning_rate_multiplier": 0.5}}}},
    ],
)  # fmt: skip
def test_hyperparameters_stand_in_either_place(fields):
    found = spec_fields(form(**fields))
    assert found == {"eval_fraction": 0.0, "epochs": 2, "learning_rate_multiplier": 0.5}


@pytest.mark.parametrize(
    "fields",
    [{}, {"hyperparameters": {}}, {"hyperparameters": None, "suffix": None, "seed": None, "metadata": None}],
)
def test_nothing_asked_is_nothing_set(fields):
    assert spec_fields(form(**fields)) == {"eval_fraction": 0.0}


def test_preferences_have_a_beta():
    method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}}
    assert spec_fields(form(method=method)) == {"eval_fraction": 0.0, "epochs": 1, "method": "dpo", "beta": 0.2}
    assert spec_fields(form(method={"type": "dpo"})) == {"eval_fraction": 0.0, "method": "dpo"}


def test_the_object_celora_takes_any_further_field():
    found = spec_fields(form(celora={"rank": 4, "eval_fraction": 0.2, "gpu": None}))
    assert found == {"eval_fraction": 0.2, "rank": 4}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"celora": {"dataset": "/etc/passwd"}}, "celora.dataset"),
        ({"celora": {"tenant": "team-b"}}, "celora.tenant"),
        ({"celora": {"base_model": "x"}}, "celora.base_model"),
        ({"celora": {"revision": "x"}}, "celora.revision"),
        ({"celora": {"rnak": 4}}, "celora.rnak"),
        ({"celora": {"seed": 4}, "seed": 3}, "celora.seed"),
        ({"celora": {"report_to": ["wandb"]}}, "celora.report_to"),
    ],
)
def test_a_field_that_is_not_the_requests_own_is_refused(fields, param):
    with pytest.raises(RequestError) as caught:
        spec_fields(form(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize("outer", [{"n_epochs": 2}, {"batch_size": 4}, {"n_epochs": 3, "batch_size": 4}])
def test_places_that_differ_are_refused(outer):
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    with pytest.raises(RequestError, match="differ"):
        spec_fields(form(hyperparameters=outer, method=method))


def test_places_that_agree_are_one():
    method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 3, "beta": 0.2}}}
    found = spec_fields(form(hyperparameters={"n_epochs": 3, "batch_size": "auto"}, method=method))
    assert found == {"eval_fraction": 0.0, "epochs": 3, "method": "dpo", "beta": 0.2}


def test_a_name_that_reads_auto_is_kept():
    assert spec_fields(form(suffix="auto"))["suffix"] == "auto"


@pytest.mark.parametrize(
    ("method", "param"),
    [
        ({"type": "supervised", "supervised": {}, "dpo": {"hyperparameters": {"beta": 0.2}}}, "method.dpo"),
        ({"type": "dpo", "supervised": {"hyperparameters": {"n_epochs": 1}}}, "method.supervised"),
        ({"type": "dpo", "dpo": {}, "reinforcement": {}}, "method.reinforcement"),
    ],
)
def test_settings_of_another_method_are_refused(method, param):
    with pytest.raises(RequestError) as caught:
        refuse_unsupported(form(method=method))
    assert caught.value.param == param
    refuse_unsupported(form(method={"type": "supervised", "supervised": {}, "dpo": None, "reinforcement": None}))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"method": {"type": "reinforcement"}}, "unsupported_method"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "missing_secret"),
    ],
)
def test_what_is_not_offered_says_so(fields, code):
    with pytest.raises(RequestError) as caught:
        refuse_unsupported(form(**fields))
    assert caught.value.reason == code
    refuse_unsupported(form())


@pytest.mark.parametrize(
    "fields",
    [
        {"model": 3}, {"training_file": None}, {"seed": -1}, {"seed": 2.5}, {"seed": True}, {"suffix": "x" * 65},
        {"hyperparameters": {"n_epochs": 0}}, {"hyperparameters": {"n_epochs": "3"}}, {"hyperparameters": "auto"},
        {"hyperparameters": {"batch_size": 257}}, {"hyperparameters": {"learning_rate_multiplier": 0}},
        {"metadata": {"k": 1}}, {"metadata": []}, {"metadata": {"k" * 65: "v"}}, {"metadata": {"k": "v" * 513}},
        {"metadata": {str(number): "v" for number in range(17)}},
        {"method": {"type": "kto"}}, {"celora": []}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_wrong_type_or_range_is_refused(fields):
    with pytest.raises(ValidationError):
        form(**fields)


@pytest.mark.parametrize(
    ("given", "wrong", "param"),
    [
        ({"celora": {"rank": -1}}, {"rank": -1}, "celora.rank"),
        ({"suffix": "a b"}, {"suffix": "a b"}, "suffix"),
        ({}, {"eval_fraction": 2}, "celora.eval_fraction"),
        ({"celora": {"champion": "bot"}}, {"champion": "bot"}, "celora.champion"),
        (
            {"hyperparameters": {"batch_size": 6}, "celora": {"accumulation": 4}},
            {"effective_batch": 6, "accumulation": 4},
            "hyperparameters.batch_size",
        ),
        ({"celora": {"gate": {"x": 1}}}, {"gate": {"x": 1}, "champion": "bot"}, "celora.gate.x"),
    ],
)
def test_a_wrong_field_is_named_as_the_request_has_it(given, wrong, param):
    with pytest.raises(RequestError) as caught:
        check_fields(form(**given), {**SPEC, **wrong})
    assert caught.value.param == param
    check_fields(form(), SPEC)
