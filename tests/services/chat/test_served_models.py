import os
import shutil
from dataclasses import replace

import pytest
from sqlalchemy import delete

from celora.errors import RequestError
from celora.models.openai.model_ids import checkpoint_id
from celora.models.scope.scope import Scope
from celora.models.tables import Checkpoint
from celora.services.chat.served_models import COPIES, find_model, local_folder
from celora.services.openai import model_names
from celora.settings.settings import get_settings


def find(asked, tenant="team-a"):
    return find_model(tenant, asked, get_settings())


def test_a_base_an_alias_a_model_and_a_checkpoint_are_found(add_model, monkeypatch):
    monkeypatch.setenv("CELORA_MODEL_ALIASES", '{"gpt-4o-mini": "smollm2-135m-instruct"}')
    get_settings.cache_clear()
    model = add_model(spec={"template": "chatml"}, quantization="none")
    assert find("smollm2-135m-instruct").base_names == {"smollm2-135m-instruct"}
    assert find("gpt-4o-mini").base_name == "smollm2-135m-instruct"
    tuned, step = find(model).adapter, find(checkpoint_id(model, 3)).adapter
    assert (tuned.name, step.name) == ("job-team-a", "job-team-a@3")
    assert (tuned.rank, tuned.template, tuned.quantization, tuned.base.revision) == (12, "chatml", "none", "c0ffee")
    read = [(local_folder(one, get_settings()) / "weights").read_text() for one in (tuned, step)]
    assert read == ["adapter", "checkpoint"]


@pytest.mark.parametrize(
    "asked", ["nothing", "ft:base:team-b:bot:tail", "ft:base:team-a:bot:tail:ckpt-step-4", "ft:", "/etc"]
)
def test_any_other_name_is_one_that_nobody_has(add_model, asked):
    add_model("team-a")
    add_model("team-b")
    with pytest.raises(RequestError) as caught:
        find(asked)
    assert (caught.value.status, caught.value.reason, caught.value.param) == (404, "model_not_found", "model")


def test_a_deleted_model_and_a_removed_checkpoint_are_gone(add_model, record):
    model = add_model()
    with record.transaction(Scope.everything) as session:
        session.execute(delete(Checkpoint))
    with pytest.raises(RequestError, match="does not exist"):
        find(checkpoint_id(model, 3))
    model_names.delete("team-a", model, get_settings())
    with pytest.raises(RequestError, match="does not exist"):
        find(model)


def test_a_model_whose_files_are_gone_is_not_there(add_model):
    adapter = find(add_model()).adapter
    shutil.rmtree(get_settings().home / "artifacts")
    with pytest.raises(RequestError, match="files of the model are gone"):
        local_folder(adapter, get_settings())


def test_files_of_a_root_elsewhere_are_fetched_once(add_model, monkeypatch):
    adapter = find(add_model()).adapter
    monkeypatch.setattr("celora.storage.artifacts.Artifacts.local_path", lambda *_: None)
    folder = local_folder(adapter, get_settings())
    assert (folder / "weights").read_text() == "adapter"
    (folder / "weights").write_text("the copy")
    assert (local_folder(adapter, get_settings()) / "weights").read_text() == "the copy"
    for number in range(COPIES + 3):
        folder = local_folder(replace(adapter, name=f"job-{number}"), get_settings())
        os.utime(folder, (number, number))
    kept = {one.name for one in folder.parent.iterdir()}
    assert len(kept) == COPIES
    assert "job-0" not in kept
