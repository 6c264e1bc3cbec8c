"""A request becomes the fields of a job: its model, its files, and its settings."""

import pytest

from celora.api.answers import refusal
from celora.errors import RequestError
from celora.models.scope.scope import Scope
from celora.services.openai.job_fields import read_request
from celora.settings.settings import get_settings


@pytest.fixture
def read(installation, file):
    def ask(**fields):
        training = fields.pop("training_file", None) or file().id
        body = {"model": "smollm2-135m-instruct", "training_file": training, **fields}
        with installation.session(Scope.of("default")) as session:
            return read_request(session, body, "default", get_settings(), lambda error: refusal(error.errors()))

    return ask


def test_epochs_follow_from_the_file_unless_they_are_asked_for(read):
    assert read().fields["epochs"] == 3
    assert read(hyperparameters={"n_epochs": 7}).fields["epochs"] == 7


def test_the_files_stand_with_their_names(read, file):
    asked = read(validation_file=file(filename="held.jsonl").id)
    assert (asked.training.filename, asked.validation.filename) == ("rows.jsonl", "held.jsonl")
    assert (asked.fields["dataset"], asked.fields["tenant"]) == (asked.training.uri, "default")


@pytest.mark.parametrize("purpose", ["fine-tune-results"])
def test_a_file_of_another_purpose_is_no_training_file(read, file, purpose):
    with pytest.raises(RequestError) as caught:
        read(training_file=file(purpose=purpose).id)
    assert caught.value.param == "training_file"
