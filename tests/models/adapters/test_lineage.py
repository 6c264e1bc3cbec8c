"""A job that goes on from an adapter takes base and shape from it, within its tenant, and contradicts nothing."""

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.models.adapters import lineage
from celora.models.scope.scope import Scope
from celora.models.spec import PARENTS_BASE, parse_spec
from celora.models.states import Status
from celora.models.tables import Adapter, Champion, Checkpoint, Job, Tenant

BASE = {
    "source": "base",
    "kind": "hub",
    "name": "owner/base",
    "revision": "abc123",
    "parameters": 1,
    "context_tokens": 8,
    "model_type": "llama",
}


def spec(**fields):
    return parse_spec({"dataset": "/rows.jsonl", "tenant": "blue", **fields})


@pytest.fixture
def resolve(database):
    from celora.models.database import now

    with database.transaction(Scope.everything) as session:
        at = now(session)
        session.add_all(Tenant(name=name, created_at=at) for name in ("blue", "red"))
        session.flush()
        fields = {"base_model": "owner/base", "dataset": "/r.jsonl", "tenant": "blue", "rank": 8, "alpha": 9}
        known = {"user": "", "gpu": "auto", "stage": "publish", "spec": parse_spec(fields).model_dump(mode="json")}
        known |= {"base": BASE, "warnings": [], "created_at": at, "updated_at": at}
        for name, tenant in (("done", "blue"), ("hers", "red")):
            session.add(Job(id=name, tenant=tenant, status=Status.COMPLETED, adapter_uri=f"file:///{name}", **known))
        session.add(Job(id="new", tenant="blue", status=Status.RUNNING, **known))
        session.flush()
        facts = {"size_bytes": 1, "created_at": at}
        session.add(Checkpoint(job_id="new", attempt=1, step=4, uri="file:///4", manifest_sha256="0", **facts))
        owned = {"name": "shop", "tenant": "blue", "base_name": "owner/base", "base_revision": "abc123", "rank": 8}
        session.add(Adapter(id="done", uri="file:///done", **owned, **facts))

    def resolve(**fields):
        with database.session(Scope.everything) as session:
            return lineage.resolve(session, spec(**fields))

    return resolve


def test_base_and_shape_come_from_the_parent_and_the_record_names_its_job(resolve):
    for name in ("done", "shop"):
        found = resolve(continue_from=name)
        assert (found.base_model, found.revision, found.continue_from) == ("owner/base", "abc123", "done")
        assert (found.rank, found.alpha) == (8, 9)
    assert resolve(continue_from="new@4").continue_from == "new@4"
    assert spec(continue_from="done").base_model == PARENTS_BASE


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank": 4, "alpha": 3}, "rank 4 is not 8; alpha 3.0 is not 9.0"),
        ({"base_model": "owner/other"}, "base_model owner/other is not owner/base"),
        ({"revision": "main"}, "revision main is not abc123"),
        ({"continue_from": "new"}, "job new has no adapter: it is running"),
        ({"continue_from": "new@5"}, "job new has no checkpoint of step 5"),
    ],
)
def test_a_contradiction_is_refused_by_name(resolve, fields, said):
    with pytest.raises(SettingsError, match=said):
        resolve(**{"continue_from": "done", **fields})


BAD_NAMES = ("", " ", "done ", "@4", "done@", "done@-1", "done@x", "done@4@5", "done@1.5", "done@\u0664", "do\0ne",
             "../done", "a/b", "done\n", "d" * 129, "done@" + "9" * 10)  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=[ascii(name)[1:20] for name in BAD_NAMES])
def test_what_cannot_name_an_adapter_is_refused_without_a_look_into_the_record(name):
    for fields in ({"continue_from": name}, {"base_model": "b", "method": "dpo", "reference": name}):
        with pytest.raises(SettingsError, match=r"continue_from|reference|base_model is missing"):
            spec(**fields)


@pytest.mark.parametrize("name", [7, True, ["done"], {"job": "done"}])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(SettingsError, match="continue_from"):
        spec(continue_from=name)


@pytest.mark.parametrize("name", ["nowhere", "nowhere@4", "new@999999999", "done@0", "owner/base".replace("/", "_")])
def test_an_adapter_that_is_not_there_is_refused(resolve, name):
    with pytest.raises((NotFoundError, SettingsError), match="continue_from: "):
        resolve(continue_from=name)


def test_a_deleted_adapter_is_no_parent_any_more(resolve, database):
    with database.transaction(Scope.everything) as session:
        session.get_one(Job, "done").adapter_uri = None
    with pytest.raises(SettingsError, match="job done has no adapter"):
        resolve(continue_from="done")


def test_adapters_of_other_tenants_do_not_exist(resolve):
    with pytest.raises(NotFoundError, match="the tenant blue has no job, adapter or champion hers"):
        resolve(continue_from="hers")
    with pytest.raises(NotFoundError, match="reference: the tenant blue has no"):
        resolve(base_model="owner/base", method="dpo", reference="hers")


def test_a_reference_of_another_base_is_refused(resolve):
    assert resolve(base_model="owner/base", method="dpo", reference="shop").reference == "done"
    assert resolve(base_model="owner/base", method="dpo", reference="base").reference == "base"
    with pytest.raises(SettingsError, match=r"reference: done was trained on owner/base, and this job trains on other"):
        resolve(base_model="other", method="dpo", reference="done")


def test_a_job_goes_on_from_the_champion_that_it_competes_for_and_the_first_one_begins_with_the_base(resolve, database):
    from celora.models.database import now

    contest = {"champion": "bot", "continue_from": "bot", "eval_dataset": "/held.jsonl"}
    assert resolve(**contest, base_model="owner/base").continue_from is None
    with pytest.raises(SettingsError, match="no champion bot yet, and the job names no base"):
        resolve(**contest)
    with database.transaction(Scope.everything) as session:
        at = now(session)
        session.add(Champion(tenant="blue", name="bot", job_id="done", version=1, since=at))
    assert resolve(**contest, base_model="owner/base").continue_from == "done"
