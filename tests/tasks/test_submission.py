"""Jobs that name a dataset: the version of that moment is theirs, whichever door they come through."""

from types import SimpleNamespace

import pytest

from celora.models import datasets
from celora.models.database import get_database
from celora.models.registry import register_dataset
from celora.models.states import Status
from celora.models.tables import Job
from celora.settings.errors import NotFoundError
from celora.settings.settings import get_settings
from celora.tasks.submission import accept

SPEC = {"base_model": "smollm2-135m-instruct", "dataset": "faq", "tenant": "acme"}


@pytest.fixture
def record(home):
    database = get_database()
    database.migrate()
    return database


def add(record, digit):
    with record.transaction() as session:
        facts = {
            "sha256": digit * 64,
            "uri": f"{get_settings().artifacts}/datasets/{digit}/data.jsonl",
            "size_bytes": 1,
        }
        return register_dataset(session, tenant="acme", name="faq", **facts).uri


def job_of(record, job_id):
    with record.session() as session:
        return session.get(Job, job_id), datasets.seen_by(session, job_id)


def test_a_message_that_names_a_dataset_gets_the_version_of_its_moment(record):
    first = add(record, "a")
    assert accept(record, get_settings(), SPEC, SimpleNamespace(id="one"))
    second = add(record, "b")
    assert not accept(record, get_settings(), SPEC, SimpleNamespace(id="one"))
    assert accept(record, get_settings(), SPEC | {"eval_dataset": "faq@1"}, SimpleNamespace(id="two"))
    job, seen = job_of(record, "one")
    assert (job.spec["dataset"], seen["train"]["version"]) == (first, 1)
    job, seen = job_of(record, "two")
    assert (job.spec["dataset"], job.spec["eval_dataset"]) == (second, first)
    assert {role: row["version"] for role, row in seen.items()} == {"train": 2, "eval": 1}


def test_a_name_that_is_not_there_fails_the_job_and_says_what_there_is(record):
    add(record, "a")
    with pytest.raises(NotFoundError, match="did you mean faq"):
        accept(record, get_settings(), SPEC | {"dataset": "fag"}, SimpleNamespace(id="one"))
    job, seen = job_of(record, "one")
    assert (job.status, job.error["code"], seen) == (Status.FAILED, "not_found", {})


def test_another_tenants_dataset_is_not_there(record):
    add(record, "a")
    with pytest.raises(NotFoundError, match="there is no dataset faq"):
        accept(record, get_settings(), SPEC | {"tenant": "other"}, SimpleNamespace(id="one"))
