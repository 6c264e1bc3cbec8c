"""Jobs from requests: what the job is told, what is refused, and once however often a request is repeated."""

import json
import threading

import pytest
from sqlalchemy import func, select

from celora.errors import RequestError
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.services.openai import files
from celora.settings.settings import get_settings


def count(database):
    with database.session(Scope.everything) as session:
        return session.scalar(select(func.count()).select_from(Job))


def test_the_job_is_told_what_was_asked(create, file, installation):
    training, validation = file(), file(b'{"prompt": "3", "completion": "4"}\n')
    job_id = create(training_file=training.id, validation_file=validation.id, suffix="bot", seed=7,
                    hyperparameters={"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": "auto"},
                    metadata={"team": "blue"}, celora={"rank": 4})  # fmt: skip
    with installation.session(Scope.everything) as session:
        spec = session.get_one(Job, job_id).spec
    wanted = {"base_model": "smollm2-135m-instruct", "dataset": training.uri, "eval_dataset": validation.uri,
              "eval_fraction": 0.0, "epochs": 2, "effective_batch": 8, "seed": 7, "suffix": "bot", "rank": 4,
              "metadata": {"team": "blue"}, "tenant": "default", "user": "ada"}  # fmt: skip
    assert {name: spec[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model_not_found", "model"),
        ({"model": "gpt-4o", "method": {"type": 3}}, 404, "model_not_found", "model"),
        ({"training_file": "file-none"}, 400, "invalid_training_file", "training_file"),
        ({"validation_file": "file-none"}, 400, "invalid_validation_file", "validation_file"),
        ({"model": None}, 400, "invalid_value", "model"),
        ({"celora": {"gpu": "no-such"}}, 400, "invalid_value", "celora.gpu"),
        ({"celora": {"early_stopping_patience": 2}}, 400, "invalid_value", "celora.early_stopping_patience"),
        ({"celora": {"reference": "nobody"}}, 400, "invalid_value", "celora.reference"),
        ({"method": {"type": "dpo"}, "celora": {"reference": "nobody"}}, 400, "invalid_value", "celora.reference"),
        ({"metadata": {"k": "v" * 600}}, 400, "invalid_value", "metadata.k"),
    ],
)
def test_a_refused_request_leaves_no_job(create, installation, fields, status, code, param):  # noqa: PLR0917
    from celora.api.answers import answer_of
    from celora.errors import CeloraError

    with pytest.raises(CeloraError) as caught:
        create(**fields)
    answer = answer_of(caught.value)
    told = json.loads(answer.body)["error"]
    assert (answer.status_code, told["code"], told["param"]) == (status, code, param)
    assert count(installation) == 0


def test_another_tenants_file_and_a_file_of_results_are_no_training_files(create, file, stored):
    results = files.create("default", stored(), get_settings(), filename="r.csv", purpose=files.RESULTS)
    for given in (file(tenant="team-b").id, results.id):
        with pytest.raises(RequestError) as caught:
            create(training_file=given)
        assert caught.value.reason == "invalid_training_file"


def test_a_key_makes_one_job_and_belongs_to_its_request(create, file, installation):
    training = file().id
    one = create(key="k", training_file=training)
    assert create(key="k", training_file=training) == one
    with pytest.raises(RequestError) as caught:
        create(key="k", training_file=training, seed=3)
    assert caught.value.status == 409
    assert create(key="other", training_file=training) != one
    assert count(installation) == 2


def test_a_repetition_is_the_job_that_the_first_request_made(create, file, installation):
    training = file().id
    one = create(training_file=training)
    assert create(training_file=training, retried=True) == one
    assert create(training_file=training, retried=True, key_id="another") != one
    assert create(training_file=training) != one  # an equal request that is no repetition is a second job
    assert count(installation) == 3


def test_overlapping_repetitions_make_one_job(create, file, installation):
    training, made = file().id, []
    threads = [
        threading.Thread(target=lambda: made.append(create(training_file=training, retried=True))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1
    assert count(installation) == 1


def test_a_request_of_another_tenant_is_another_request(create, file):
    one = create(key="k")
    assert create(tenant="team-b", key="k") != one
