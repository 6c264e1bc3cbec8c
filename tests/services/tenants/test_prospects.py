"""A job that no worker can ever run is refused or marked when it is submitted, with the numbers."""

import json
import os
from pathlib import Path

import pytest
from sqlalchemy import select

from celora.errors import BaseModelError
from celora.models import workers
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Event
from celora.services.acceptance import write_job
from celora.services.job_checks import check_spec
from celora.services.queue import changes
from celora.services.queue.changes import JobChanges, change_job
from celora.services.tenants.prospects import NOT_CARRIED
from celora.settings.settings import get_settings

GIB = 2**30


class Installation:
    """A record of which the services know."""

    def __init__(self, database):
        self.database = database

    def job(self, job_id, **fields):
        spec = parse_spec({"base_model": "b", "dataset": "/d.jsonl", "gpu": "h100", **fields})
        with self.database.transaction(Scope.everything) as session:
            write_job(session, get_settings(), job_id, spec, None)


@pytest.fixture
def here(database, home, monkeypatch):
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    monkeypatch.setattr(changes, "request_tick", lambda: None)
    return Installation(database)


def marks(here, job_id):
    with here.database.session(Scope.everything) as session:
        found = select(Event).where(Event.kind == NOT_CARRIED, Event.job_id == job_id).order_by(Event.id)
        return [(row.message, row.data["unknown"]) for row in session.scalars(found)]


def labelled(here, name, labels, *, gpu_type="h100", reserved_for=None):
    with here.database.transaction(Scope.everything) as session:
        workers.register(session, name, host="h", kind="gpu", gpu_type=gpu_type, pid=1, slots=1, labels=labels,
                         reserved_for=reserved_for, queues=[f"gpu.{gpu_type}"])  # fmt: skip


def test_labels_that_no_worker_carries_are_marked_and_the_job_is_accepted(here):
    labelled(here, "plain", "")
    labelled(here, "one", "highmem,team-a")
    labelled(here, "two", "nvlink")
    here.job("plain")
    here.job("fits", labels=["highmem"])
    here.job("unknown", labels=["highmem", "moon"])
    here.job("apart", labels=["highmem", "nvlink"])
    assert marks(here, "plain") == marks(here, "fits") == []
    assert marks(here, "unknown") == [("no h100 worker carries the label moon; the job waits until one does", ["moon"])]
    assert marks(here, "apart") == [
        ("no h100 worker carries the labels highmem, nvlink together; the job waits until one does", [])
    ]


def test_a_worker_of_another_type_or_tenant_is_none_for_the_job_and_one_that_is_offline_is(here):
    labelled(here, "small", "highmem", gpu_type="l4")
    labelled(here, "theirs", "quiet", reserved_for="somebody")
    labelled(here, "mine", "fast")
    with here.database.transaction(Scope.everything) as session:
        workers.mark_offline(session, "mine")
    here.job("one", labels=["highmem"])
    here.job("two", labels=["quiet"])
    here.job("three", labels=["fast"])
    here.job("any", labels=["highmem"], gpu="auto")
    assert [len(marks(here, name)) for name in ("one", "two", "three", "any")] == [1, 1, 0, 0]


def test_labels_that_are_changed_are_marked_anew(here):
    here.job("one")
    change_job("one", JobChanges(labels=["moon"]))
    change_job("one", JobChanges(priority=3))
    change_job("one", JobChanges(labels=[]))
    assert len(marks(here, "one")) == 1


@pytest.fixture
def large_base(tmp_path):
    """A folder whose weights take so many GiB; the file is a hole, and nobody reads it."""

    def make(stored_gib, **config):
        folder = tmp_path / "giant"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(int(stored_gib * GIB))
        return str(folder)

    return make


@pytest.mark.parametrize(("stored_gib", "fields", "words"), [
    (800, {"config": {"dtype": "bfloat16"}}, "200.0 GiB of device memory in 4 bits.*catalogue, b200, has 180 GiB"),
    (100, {"config": {"torch_dtype": "bfloat16"}, "gpu": "l4"}, "25.0 GiB.*asked for, l4, has 24 GiB"),
    (400, {"config": {}, "quantization": "none"}, "200.0 GiB of device memory in 16 bits"),
    (700, {"config": {"dtype": "bfloat16"}}, None),
    (90, {"config": {"dtype": "bfloat16"}, "gpu": "l4"}, None),
    (1400, {"config": {}}, None),
])  # fmt: skip
def test_a_base_that_no_gpu_can_hold_is_refused_with_both_sizes(home, large_base, stored_gib, fields, words):
    config = fields["config"]
    spec = {"base_model": large_base(stored_gib, **config), "dataset": "name@1"}
    spec |= {name: value for name, value in fields.items() if name != "config"}
    if words is None:
        assert check_spec(spec, get_settings()).gpu == parse_spec(spec).gpu
        return
    with pytest.raises(BaseModelError, match=words):
        check_spec(spec, get_settings())


def test_the_same_weights_in_another_form_count_once_and_a_fifo_stops_nobody(home, large_base):
    folder = Path(large_base(300, dtype="bfloat16"))
    with (folder / "consolidated.safetensors").open("wb") as file:
        file.truncate(600 * GIB)
    assert check_spec({"base_model": str(folder), "dataset": "name@1"}, get_settings())
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert check_spec({"base_model": str(folder), "dataset": "name@1"}, get_settings())


@pytest.mark.parametrize("config", ["", "[1]", "[" * 100_000, '{"dtype": ["x"]}', "\x00"])
def test_a_configuration_of_any_content_refuses_nothing_here(home, large_base, config):
    folder = Path(large_base(1))
    (folder / "config.json").write_text(config)
    assert check_spec({"base_model": str(folder), "dataset": "name@1"}, get_settings())
