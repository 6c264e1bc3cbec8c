"""The request of a job holds every field of a command's job, and refuses what only a record knows."""

import pytest

from celora.api.client.uploads import form_of
from celora.errors import SettingsError
from celora.models.spec import JobSpec


def test_fields_stand_in_their_own_places_and_the_defaults_are_those_of_a_command():
    fields = {"base_model": "m", "dataset": "file-1", "eval_dataset": "file-2", "rank": "8", "suffix": None}
    form = form_of(fields)
    assert {name: form[name] for name in form if name != "celora"} == {
        "model": "m", "training_file": "file-1", "validation_file": "file-2",
    }  # fmt: skip
    defaults = JobSpec.model_validate({"base_model": "m", "dataset": "d"})
    assert form["celora"] == {
        "epochs": defaults.epochs, "eval_fraction": defaults.eval_fraction, "epoch_checkpoints": False, "rank": "8",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tenant": "team-a"}, "tenant cannot be sent"),
        ({"user": "ada"}, "user cannot be sent"),
        ({"revision": "main"}, "revision cannot be sent"),
        ({"continue_from": "job"}, "may be the id of a trained model"),
        ({"eval_dataset": {"one": "a.jsonl"}}, "one held-out file"),
    ],
)
def test_what_no_server_takes_is_refused_before_anything_is_sent(fields, words):
    with pytest.raises(SettingsError, match=words):
        form_of({"base_model": "m", "dataset": "file-1", **fields})
