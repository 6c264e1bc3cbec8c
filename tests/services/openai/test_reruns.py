"""The jobs of another service are submitted once, with files that are kept once."""

import pytest

from celora.models.scope.scope import Scope
from celora.models.tables import File, Job
from celora.services import jobs
from celora.services.openai import reruns
from celora.settings.settings import get_settings

ROWS = b'{"prompt": "one", "completion": "1"}\n{"prompt": "two", "completion": "2"}\n'


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROWS)
    return file


@pytest.fixture
def kept(installation, path, monkeypatch):
    monkeypatch.setattr(jobs.messages, "send_finetune", lambda *_: True)
    return reruns.keep_file("team-a", path, "../rows.jsonl", get_settings())


def test_a_file_is_kept_once_for_each_tenant_under_its_last_name(kept, path, installation):
    assert kept.filename == "rows.jsonl"
    assert reruns.keep_file("team-a", path, "rows.jsonl", get_settings()).id == kept.id
    other = reruns.keep_file("team-b", path, "rows.jsonl", get_settings())
    assert (other.id != kept.id, other.uri) == (True, kept.uri)
    assert reruns.keep_file("team-a", path, "again.jsonl", get_settings()).id != kept.id
    with installation.session(Scope.everything) as session:
        assert session.query(File).count() == 3


def test_a_job_is_submitted_once_and_names_where_it_came_from(kept, installation):
    job_id = reruns.rerun_id("team-a", "https://api.openai.com", "ftjob-1")
    fields = {"base_model": "smollm2-135m-instruct", "dataset": kept.uri, "metadata": {"team": "blue"}}
    assert not reruns.exists("team-a", job_id)
    for _ in range(2):
        reruns.submit_rerun("team-a", job_id, fields, moved_from="ftjob-1")
    assert reruns.exists("team-a", job_id)
    assert not reruns.exists("team-b", job_id)
    with installation.session(Scope.everything) as session:
        (job,) = session.query(Job)
        assert (job.id, job.tenant, job.spec["dataset"]) == (job_id, "team-a", kept.uri)
        assert job.spec["metadata"] == {"team": "blue", "moved_from": "ftjob-1"}


def test_a_job_with_all_its_labels_keeps_them(kept, installation):
    labels = {f"label-{number}": "x" for number in range(16)}
    fields = {"base_model": "smollm2-135m-instruct", "dataset": kept.uri, "metadata": labels}
    reruns.submit_rerun("team-a", "ftjob-moved-1", fields, moved_from="ftjob-1")
    with installation.session(Scope.everything) as session:
        assert session.get_one(Job, "ftjob-moved-1").spec["metadata"] == labels


def test_ids_differ_by_tenant_service_and_job():
    places = [("a", "s", "1"), ("b", "s", "1"), ("a", "t", "1"), ("a", "s", "2")]
    assert len({reruns.rerun_id(*place) for place in places}) == 4
