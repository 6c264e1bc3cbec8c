"""The shortest request that trains: a file, a dataset's name, or an operator's path."""

import pytest
from pydantic import ValidationError

from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.models.tenants.keys import READ, SUBMIT, Principal
from celora.services.openai import short_jobs
from celora.settings.settings import get_settings

CALLER = Principal(key_id="k", tenant="team-a", name="ci", scopes=frozenset({READ, SUBMIT}))


def test_a_file_of_the_tenant_is_trained_on(installation, file):
    made = file(tenant="team-a")
    asked = short_jobs.ShortJob(base_model="smollm2-135m-instruct", dataset_path=made.id, epochs=2)
    job_id = short_jobs.submit(asked, CALLER, get_settings())
    with installation.session(Scope.of("team-a")) as session:
        spec = session.get_one(Job, job_id).spec
    facts = {"dataset": made.uri, "epochs": 2, "tenant": "team-a", "user": "ci"}
    assert {name: spec[name] for name in facts} == facts


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError):
        short_jobs.ShortJob(base_model="m", dataset_path="d", tenant="team-b")
