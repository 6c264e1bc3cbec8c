"""Jobs that name a dataset: the version of that moment is theirs, whichever door they come through."""

from types import SimpleNamespace

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.models import queries
from celora.models.database import get_database
from celora.models.datasets import register
from celora.models.jobs import requests
from celora.models.jobs.outbox import claim_announcement, mark_announced
from celora.models.scope.scope import Scope
from celora.models.states import Status
from celora.models.tables import Job
from celora.services.acceptance import accept
from celora.settings.settings import get_settings

SPEC = {"base_model": "smollm2-135m-instruct", "dataset": "faq", "tenant": "acme"}


@pytest.fixture
def record(home):
    database = get_database()
    database.migrate()
    return database


def add(record, digit):
    with record.transaction(Scope.everything) as session:
        facts = {
            "sha256": digit * 64,
            "uri": f"{get_settings().artifacts}/datasets/{digit}/data.jsonl",
            "size_bytes": 1,
        }
        return register(session, tenant="acme", name="faq", **facts).uri


def job_of(record, job_id):
    with record.session(Scope.everything) as session:
        return session.get(Job, job_id), queries.datasets_of(session, job_id)


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


PLAIN = SPEC | {"dataset": "/data/rows.jsonl"}
LINK = {"args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}


@pytest.fixture
def taken(record, home, monkeypatch):
    """Accept a message with these options of the call; the job's row."""
    monkeypatch.setenv("CELORA_ALLOWED_ROOTS", '["/data"]')
    get_settings.cache_clear()

    def taken(fields=PLAIN, job_id="one", **options):
        accept(record, get_settings(), fields, SimpleNamespace(id=job_id, **options))
        return job_of(record, job_id)[0]

    yield taken
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("timelimit", "own", "minutes"),
    [
        ([None, None], None, None),
        ([7200, None], None, 120),
        ([None, 60], None, 1),
        ([90, 60], None, 1),
        ([120, None], 1, 1),
        ([30, None], 1, 0.5),
    ],
)
def test_the_time_limit_of_a_call_is_the_limit_of_each_stage(taken, timelimit, own, minutes):
    job = taken(PLAIN | {"stage_time_limit_minutes": own}, timelimit=timelimit)
    assert job.spec["stage_time_limit_minutes"] == minutes


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("2026-11-30T08:00:00+02:00", "2026-11-30T06:00:00+00:00"),
        ("2026-11-30T08:00:00", "2026-11-30T08:00:00+00:00"),
    ],
)
def test_the_time_at_which_a_call_expires_is_kept_in_utc(taken, given, kept):
    assert taken(expires=given).request["expires"] == kept


def test_a_priority_of_the_message_is_refused_by_its_name(taken):
    with pytest.raises(SettingsError, match="priority: 9 is the priority of the message") as caught:
        taken(delivery_info={"priority": 9})
    assert 'kwargs={…, "priority": 10}' in caught.value.hint
    assert taken(job_id="two", delivery_info={"priority": 0}).status is Status.PENDING


def ended(record, job_id="one"):
    with record.transaction(Scope.everything) as session:
        requests.request_cancel(session, job_id)
        assert claim_announcement(session, job_id, 30)
        mark_announced(session, job_id)


def waits_for_announcement(record, job_id="one"):
    with record.transaction(Scope.everything) as session:
        return claim_announcement(session, job_id, -1)


def test_a_finished_jobs_id_that_is_sent_again_is_announced_again_to_its_new_caller(record, taken):
    taken(callbacks=[LINK | {"task": "first"}])
    ended(record)
    job = taken(callbacks=[LINK | {"task": "second"}])
    assert [link["task"] for link in job.request["callbacks"]] == ["second"]
    assert waits_for_announcement(record)


def test_a_malformed_link_of_a_repeated_call_is_refused(record, taken):
    taken()
    ended(record)
    with pytest.raises(SettingsError, match="callbacks"):
        taken(callbacks=[{"task": 5}])
    assert not waits_for_announcement(record)


def test_a_refused_jobs_id_that_is_sent_again_is_announced_too(record, taken):
    with pytest.raises(SettingsError):
        taken(PLAIN | {"rank": "many"})
    assert taken(PLAIN).status is Status.FAILED
    assert waits_for_announcement(record)


def test_a_message_that_the_broker_delivers_again_announces_nothing(record, taken):
    taken()
    ended(record)
    taken(delivery_info={"redelivered": True})
    assert not waits_for_announcement(record)


def test_the_id_of_a_job_that_is_not_over_keeps_its_first_caller(record, taken):
    taken(reply_to="first")
    assert taken(reply_to="second").request["reply_to"] == "first"
    assert not waits_for_announcement(record)
