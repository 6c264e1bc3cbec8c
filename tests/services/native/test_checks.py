"""Checks over HTTP: judged as a job's request is, made once, worded for the tenant, and ended in every case."""

from datetime import timedelta

import pytest
from waiting import until

from celora.api.answers import refusal
from celora.errors import RequestError
from celora.models.openai import data_checks
from celora.models.scope.scope import Scope
from celora.models.tables import DataCheck
from celora.services.native import checks, data_check
from celora.services.openai import files
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts
from celora.storage.incoming import IncomingFile
from celora.workers.trainer.supervisor import Cancelled, TrainerError

GOOD = {"ok": True, "version": 1, "files": [{"name": "rows.jsonl"}], "samples": [{"parts": "/home/ada"}]}


@pytest.fixture
def sent(record, monkeypatch):
    """The messages that were sent; the broker is away."""
    found = []
    monkeypatch.setattr(checks.messages, "attempt", lambda send, what, **_: found.append(what) or False)
    return found


@pytest.fixture
def training_file(sent):
    """A file of a tenant."""
    with IncomingFile(Artifacts(get_settings().artifacts)) as incoming:
        incoming.write(b'{"prompt": "one", "completion": "1"}\n')
        stored = incoming.commit(".jsonl")
    return files.create("default", stored, get_settings(), filename="rows.jsonl").id


@pytest.fixture
def create(training_file, sent):
    def make(tenant="default", **fields):
        sent.clear()
        body = {"model": "smollm2-135m-instruct", "training_file": training_file, **fields}
        return checks.create(body, tenant, get_settings(), lambda error: refusal(error.errors()))

    return make


@pytest.fixture
def trainer(monkeypatch):
    """Answers the request of the trainer process in its place, and keeps it."""
    asked = []

    def answer(outcome):
        def run(request, on_event, **_):
            asked.append(request)
            if isinstance(outcome, Exception):
                on_event({"event": "receipt", "receipt": {**GOOD, "ok": False}})
                raise outcome
            return {"receipt": outcome}

        monkeypatch.setattr(data_check, "run_once", run)
        return asked

    return answer


def run(record, check_id):
    checks.run(record, get_settings(), check_id)
    return checks.find("default", check_id)


def age(record, check_id, **changes):
    with record.transaction(Scope.everything) as session:
        row = session.get_one(DataCheck, check_id)
        for name, seconds in changes.items():
            setattr(row, name, (getattr(row, name) or row.created_at) - timedelta(seconds=seconds))


def test_a_check_waits_is_made_and_has_its_receipt(create, record, trainer, sent):
    asked = trainer(GOOD)
    made = create(celora={"rank": 8})
    assert (made.status, made.receipt, sent) == ("waiting", None, [f"the check {made.id}"])
    found = run(record, made.id)
    assert (found.status, found.receipt, found.error, found.failure) == ("ended", GOOD, None, None)
    (request,) = asked
    assert (request.op, request.recipe.rank, request.file_names) == ("check", 8, {"train": "rows.jsonl"})
    assert request.sources.local_roots is not None
    assert not list((get_settings().scratch).glob("check-*"))


def test_the_faults_of_the_data_come_with_the_receipt_and_without_the_operators_places(create, record, trainer):
    fault = {"code": "bad_data", "message": "/srv/celora/datasets/ab/data.jsonl, line 2: empty.", "hint": "Mend it."}
    trainer(TrainerError(fault))
    found = run(record, create().id)
    assert (found.receipt["ok"], found.failure) == (False, None)
    assert found.error == {"code": "bad_data", "message": "data.jsonl, line 2: empty.", "hint": "Mend it."}


@pytest.mark.parametrize(
    ("code", "said"),
    [("base_model", "it failed."), ("disk_full", "the storage of the service is full."),
     ("killed", "the service failed.")],
)  # fmt: skip
def test_a_check_that_cannot_be_made_ends_with_the_cause(create, record, trainer, code, said):
    trainer(TrainerError({"code": code, "message": "it failed.", "hint": ""}))
    found = run(record, create().id)
    assert (found.status, found.receipt, found.error) == ("ended", None, None)
    assert found.failure["message"] == said


def test_what_a_job_may_not_ask_a_check_may_not(create):
    for fields, reason in (
        ({"model": "gpt-4o"}, "model_not_found"),
        ({"training_file": "file-none"}, "invalid_training_file"),
        ({"celora": {"dataset": "/etc/passwd"}}, "unknown_parameter"),
    ):
        with pytest.raises(RequestError) as caught:
            create(**fields)
        assert caught.value.reason == reason
    with pytest.raises(RequestError) as caught:
        create(tenant="team-b")  # the file is another tenant's
    assert caught.value.reason == "invalid_training_file"


def test_a_tenants_open_checks_are_limited_and_ended_ones_do_not_count(create, record, trainer):
    trainer(GOOD)
    first, *_ = [create() for _ in range(checks.MOST_OPEN)]
    with pytest.raises(RequestError) as caught:
        create()
    assert (caught.value.status, "retry-after" in caught.value.headers) == (429, True)
    run(record, first.id)
    create()


def test_a_check_is_made_once_and_a_deleted_one_not_at_all(create, record, trainer):
    asked = trainer(GOOD)
    made = create()
    for _ in range(2):
        checks.run(record, get_settings(), made.id)
    gone = create()
    checks.delete("default", gone.id)
    checks.run(record, get_settings(), gone.id)
    assert len(asked) == 1
    with pytest.raises(RequestError, match="there is no check"):
        checks.find("default", gone.id)


def test_a_check_whose_message_was_lost_is_asked_for_again(create, record, sent):
    made = create()
    sent.clear()
    checks.request_missing(record)
    assert sent == []
    age(record, made.id, sent_at=checks.RESEND_S + 1)
    checks.request_missing(record)
    checks.request_missing(record)
    assert sent == [f"the check {made.id}"]


def test_a_check_without_a_worker_has_failed_after_a_while(create, record):
    made = create()
    assert checks.find("default", made.id).status == "waiting"
    age(record, made.id, expires_at=checks.WAIT_S + 1)
    found = checks.find("default", made.id)
    assert (found.status, found.failure["code"]) == ("ended", "unavailable")


def test_a_check_that_is_deleted_while_it_runs_ends_its_trainer(create, record, monkeypatch):
    made = create()

    def run_once(request, _on_event, *, wanted, **_):
        assert request.limits.wall_s == checks.MOST_WALL_S
        assert wanted()
        checks.delete("default", made.id)
        until(lambda: not wanted())
        raise Cancelled

    monkeypatch.setattr(checks, "RENEW_S", 0.01)
    monkeypatch.setattr(data_check, "run_once", run_once)
    checks.run(record, get_settings(), made.id)
    with pytest.raises(RequestError, match="there is no check"):
        checks.find("default", made.id)


def test_a_check_that_kills_its_workers_ends(create, record, trainer):
    asked = trainer(GOOD)
    made = create()
    for _ in range(data_checks.MOST_TRIES):  # each worker dies after its claim
        with record.transaction(Scope.everything) as session:
            assert data_checks.claim_check(session, made.id, 60) is not None
        assert checks.find("default", made.id).status == "running"
        age(record, made.id, claimed_until=61)
    assert run(record, made.id).failure["code"] == "unavailable"
    assert asked == []
