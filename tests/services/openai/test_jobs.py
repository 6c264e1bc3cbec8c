"""Jobs as OpenAI's form needs them: found by their tenant alone, changed, and failed with the file that is bad."""

import pytest
from moved_job import Moved

from celora.errors import RequestError
from celora.models.openai import files
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.services import jobs as native
from celora.services.openai import jobs


@pytest.fixture(autouse=True)
def _no_messages(monkeypatch):
    monkeypatch.setattr(native, "request_tick", lambda: None)
    monkeypatch.setattr(native.results, "announce", lambda *_, **__: None)


def test_a_job_is_its_tenants_alone(create):
    job_id = create(tenant="team-b")
    for call in (jobs.find, jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(RequestError, match="no job"):
            call("default", job_id)
    assert jobs.page("default", after=None, limit=9, labels={})[0] == []
    assert jobs.find("team-b", job_id).view.status is Status.PENDING
    with pytest.raises(RequestError, match="no job"):
        jobs.find("team-b", job_id[:12])  # the beginning of an id is no id here


def test_a_waiting_job_pauses_goes_on_and_ends(create):
    job_id = create()
    assert jobs.pause("default", job_id).view.paused
    assert not jobs.resume("default", job_id).view.paused
    assert jobs.cancel("default", job_id).view.status is Status.CANCELLED
    assert jobs.cancel("default", job_id).view.status is Status.CANCELLED
    for call in (jobs.pause, jobs.resume):
        with pytest.raises(RequestError) as caught:
            call("default", job_id)
        assert (caught.value.status, caught.value.reason) == (409, "invalid_state")


def test_a_completed_job_cannot_be_cancelled(create, installation):
    job_id = create()
    Moved(installation, job_id).complete([{"step": 1, "train_loss": 1.0}])
    with pytest.raises(RequestError, match="has ended"):
        jobs.cancel("default", job_id)
    assert jobs.find("default", job_id).tokens == 900


@pytest.mark.parametrize(
    ("training", "validation", "bad"),
    [(None, "line 2", "validation_file"), ("line 1", None, "training_file"), ("line 1", "line 2", "training_file")],
)
def test_the_file_with_the_bad_rows_is_named(create, file, installation, training, validation, bad):  # noqa: PLR0917
    ids = [file().id, file().id]
    with installation.transaction(Scope.everything) as session:
        for file_id, fault in zip(ids, (training, validation), strict=True):
            files.end_check(session, file_id, rows=1, fault=fault)
    job_id = create(training_file=ids[0], validation_file=ids[1])
    moved = Moved(installation, job_id)
    moved.begin(Stage.PREPARE)
    moved.fail("bad_data", "bad lines")
    assert jobs.find("default", job_id).bad_file == bad


def test_a_job_that_came_another_way_shows_no_folder(installation):
    from celora.models.jobs import accept

    spec = parse_spec(
        {"base_model": "/srv/bases/tiny", "dataset": "/home/ada/rows.jsonl", "eval_dataset": {"a": "/x/b"}}
    )
    with installation.transaction(Scope.everything) as session:
        accept.submit(session, job_id="native", spec=spec)
    found = jobs.find("default", "native")
    assert (found.model, found.training_file, found.validation_file) == ("tiny", "rows.jsonl", "b")
