"""Names of models: what is listed, aliases, and models of one's own."""

import pytest

from celora.errors import RequestError
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Adapter, Champion, Checkpoint, Job
from celora.services.openai import model_names
from celora.settings.settings import Settings

BASE = "smollm2-135m-instruct"


def chosen(asked, **settings):
    with get_database().session(Scope.of("default")) as session:
        return model_names.choose(session, "default", asked, Settings(**settings))


@pytest.mark.parametrize(
    ("asked", "settings", "base"),
    [
        (BASE, {}, BASE),
        ("gpt-4o-mini", {"model_aliases": {"gpt-4o-mini": BASE}}, BASE),
        ("org/model", {"allowed_bases": ["org/*"]}, "org/model"),
        ("/srv/tiny", {"allowed_bases": ["/srv/tiny"]}, "/srv/tiny"),
    ],
)
def test_a_listed_base_is_chosen(installation, asked, settings, base):
    found = chosen(asked, **settings)
    assert (found.base, found.named) == (base, asked.rsplit("/", 1)[-1])


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ("gpt-4o-mini", {}),
        ("org/model", {}),
        (BASE, {"allowed_bases": ["org/*"]}),
        ("/etc", {"allowed_bases": ["*"]}),
        ("./tiny", {"allowed_bases": ["*"]}),
        ("model.gguf", {"allowed_bases": ["*"]}),
        ("ft:m:default::x", {}),
        ("ft:m:default::x", {"allowed_bases": ["*"]}),
        ("x" * 20_000, {"allowed_bases": ["*"]}),
    ],
)
def test_an_unknown_model_is_404(installation, asked, settings):
    with pytest.raises(RequestError) as caught:
        chosen(asked, **settings)
    assert (caught.value.status, caught.value.reason, caught.value.param) == (404, "model_not_found", "model")


@pytest.fixture
def trained(installation, contestant):
    """The id of a trained model of the tenant ``default``."""
    contestant("job-1", {"base": ["r0"], "tuned": ["r0"]})
    with installation.session(Scope.everything) as session:
        return session.get_one(Adapter, "job-1").model_id


def test_a_trained_model_is_listed_for_its_tenant_alone(trained):
    assert [model.id for model in model_names.models_of("default", Settings())] == [BASE, trained]
    assert model_names.find("default", trained, Settings()).owner == "default"
    assert [model.id for model in model_names.models_of("team-b", Settings())] == [BASE]
    for call in (model_names.find, model_names.delete):
        with pytest.raises(RequestError, match="does not exist"):
            call("team-b", trained, Settings())


def test_training_goes_on_from_a_model_or_a_checkpoint_of_ones_own(trained, installation):
    with installation.transaction(Scope.everything) as session:
        at = session.get_one(Job, "job-1").created_at
        session.add(Checkpoint(job_id="job-1", attempt=1, step=3, uri="c", size_bytes=1, manifest_sha256="0" * 64,
                               created_at=at))  # fmt: skip
    assert (chosen(trained).continue_from, chosen(trained).named) == ("job-1", "tiny")
    assert chosen(f"{trained}:ckpt-step-3").continue_from == "job-1@3"
    assert model_names.find("default", f"{trained}:ckpt-step-3", Settings()).owner == "default"
    for asked in (chosen, lambda model: model_names.find("default", model, Settings())):
        with pytest.raises(RequestError, match="does not exist"):
            asked(f"{trained}:ckpt-step-4")


def test_a_deleted_model_is_gone_and_its_job_has_no_adapter(trained, installation):
    model_names.delete("default", trained, Settings())
    with pytest.raises(RequestError, match="does not exist"):
        model_names.find("default", trained, Settings())
    with installation.session(Scope.everything) as session:
        assert session.get_one(Job, "job-1").adapter_uri is None


def test_neither_a_champion_nor_a_base_can_be_deleted(trained, installation):
    with installation.transaction(Scope.everything) as session:
        at = session.get_one(Job, "job-1").created_at
        session.add(Champion(tenant="default", name="bot", job_id="job-1", version=1, since=at))
    with pytest.raises(RequestError) as caught:
        model_names.delete("default", trained, Settings())
    assert (caught.value.status, caught.value.headers) == (409, {"x-should-retry": "false"})
    with pytest.raises(RequestError) as caught:
        model_names.delete("default", BASE, Settings())
    assert caught.value.status == 403
