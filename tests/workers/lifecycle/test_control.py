import pytest

from celora.models.database import get_database
from celora.models.jobs.accept import submit
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Job
from celora.settings.settings import get_settings
from celora.workers.lifecycle import control, cordon
from celora.workers.signal_files import Markers


@pytest.fixture
def record(home, monkeypatch):
    """A record with three waiting jobs, and the ids that were given to Celery's own revoke."""
    database = get_database()
    database.migrate()
    with database.transaction(Scope.everything) as session:
        for number in range(3):
            spec = parse_spec({"base_model": "b", "dataset": "/d.jsonl"})
            submit(session, job_id=f"j{number}", spec=spec, request=None)
    given = []
    monkeypatch.setattr(control, "celery_revoke", lambda _state, ids: given.append(ids) or {"ok": "revoked"})
    monkeypatch.setattr(control.results, "announce", lambda *_args, **_options: True)
    yield database, given
    database.dispose()


def test_many_jobs_are_cancelled_in_one_transaction_and_other_ids_go_to_celery(record, monkeypatch):
    database, given = record
    transactions = []
    begin = type(database).transaction
    monkeypatch.setattr(type(database), "transaction", lambda self, scope: transactions.append(1) or begin(self, scope))
    control.revoke(None, ["j0", "j1.train.1.2", "somebody-else"])
    assert given == [["somebody-else"]]
    assert len(transactions) == 1
    with database.session(Scope.everything) as session:
        assert [str(session.get(Job, name).status) for name in ("j0", "j1", "j2")] == [
            "cancelled",
            "cancelled",
            "pending",
        ]


def test_a_record_that_is_away_hides_no_job_from_its_cancel(record, monkeypatch):
    from celora.errors import UnavailableError

    database, given = record

    def away(_self, _scope):
        raise UnavailableError("the record can't be reached.")

    monkeypatch.setattr(type(database), "transaction", away)
    assert "ok" in control.revoke(None, "j0")
    assert given == []


def test_a_look_ends_the_wait_between_heartbeats(monkeypatch):
    woken = []
    monkeypatch.setattr(cordon.here, "wake", lambda: woken.append(1))
    assert control.look(None) == {"ok": "reads its row"}
    assert woken == [1]


def test_a_running_job_s_worker_finds_a_signal_file(record, monkeypatch):
    monkeypatch.setattr(control, "request_cancel", lambda *_args: "cancelling")
    control.revoke(None, "j0")
    markers = Markers(get_settings().home / "run")
    assert markers.cancel("j0").exists()


def test_commands_that_are_not_allowed_answer_with_a_refusal_and_fill_no_log(caplog):
    called = []
    handlers = {"shutdown": lambda *_args, **_options: called.append(1), "ping": lambda _state: {"ok": "pong"}}
    control.restrict(handlers)
    control._logged_at.clear()
    for _ in range(5):
        assert "celora refuses the remote command shutdown" in handlers["shutdown"](None, msg="x")["error"]
    assert called == []
    assert len(caplog.records) == 1
    assert handlers["ping"](None) == {"ok": "pong"}
