"""A stage fetches the adapter that its job goes on from, and refuses a base that has changed."""

import pytest
from claimed_job import BASE, TRAINED

from celora.errors import BaseModelError, SettingsError
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Job
from celora.tuning.protocol import Base
from celora.workers.stages import parents


@pytest.fixture
def parent(installation):
    """A completed job whose adapter is published."""
    fields = {"base_model": "tiny", "dataset": "/data/rows.jsonl"}
    installation.write(accept.submit, job_id="p", spec=parse_spec(fields))
    with installation.database.transaction(Scope.everything) as session:
        job = session.get_one(Job, "p")
        job.base, job.adapter_uri, job.result = BASE, installation.folder("adapter"), TRAINED
        job.status = Status.COMPLETED


@pytest.mark.usefixtures("parent")
def test_the_parent_is_also_the_reference_of_a_comparison(installation):
    with installation.claimed(Stage.TRAIN, continue_from="p", method="dpo") as stage:
        found = parents.folders(stage)
    assert found.keys() == {"start_from", "reference"}
    assert found["start_from"] == found["reference"]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, set()),
        ({"continue_from": "p"}, {"start_from"}),
        ({"continue_from": "p", "method": "kto", "reference": "base"}, {"start_from"}),
        ({"method": "dpo", "reference": "p"}, {"reference"}),
    ],
)
@pytest.mark.usefixtures("parent")
def test_a_job_gets_the_adapters_that_it_names(installation, fields, names):
    with installation.claimed(Stage.TRAIN, **fields) as stage:
        assert parents.folders(stage).keys() == names


@pytest.mark.usefixtures("parent")
def test_a_base_with_other_weights_is_refused_with_what_brings_them_back(installation):
    changed = Base.model_validate({**BASE, "revision": "r2"})
    with installation.claimed(Stage.PREPARE, continue_from="p") as stage:
        parents.require_base(stage, Base.model_validate(BASE))
        with pytest.raises(BaseModelError, match="p was trained on tiny at r1, and the base is r2 now") as caught:
            parents.require_base(stage, changed)
    assert "Put the weights with this SHA-256 back to tiny" in caught.value.hint


@pytest.mark.usefixtures("parent")
def test_a_reference_of_another_base_is_refused_before_a_gpu_is_held(installation):
    changed = Base.model_validate({**BASE, "revision": "r2"})
    with (
        installation.claimed(Stage.PREPARE, method="dpo", reference="p") as stage,
        pytest.raises(SettingsError, match="reference: p was trained on tiny at r1"),
    ):
        parents.require_base(stage, changed)


def test_a_hub_base_is_fetched_by_its_revision():
    hub = Base.model_validate({**BASE, "kind": "hub", "name": "owner/base", "revision": "abc"})
    assert "`celora bases add owner/base --revision abc`" in parents._remedy(hub)
