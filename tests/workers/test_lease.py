"""A lease is renewed on its own thread, through outages of the record, until the block ends or the job is another's."""

import threading
from contextlib import contextmanager

import pytest
from waiting import HANG_S, until

from celora.errors import UnavailableError
from celora.models.database import Database
from celora.models.jobs import accept, requests, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Reason
from celora.models.tables import Job
from celora.workers.lease import Lease

CLAIM = Claim("j", 1, "w")


class Record(Database):
    """A record that is away whenever the test says so; ``asked`` is set at each renewal."""

    away = False

    def __init__(self, url):
        super().__init__(url)
        self.asked = threading.Event()

    @contextmanager
    def transaction(self, scope):
        self.asked.set()
        if self.away:
            raise UnavailableError("the record can't be reached.")
        with super().transaction(scope) as session:
            yield session


@pytest.fixture
def record(tmp_path):
    made = Record(f"sqlite:///{tmp_path}/celora.db")
    made.migrate()
    with made.transaction(Scope.everything) as session:
        accept.submit(session, job_id="j", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
        transitions.send(session, "j", 1, "prepare", queue="prep")
        transitions.claim(session, "j", 1, "prepare", worker_id="w", lease_s=1)
    yield made
    made.dispose()


def lease_until(record):
    with record.session(Scope.everything) as session:
        return session.get_one(Job, "j").lease_until


def test_a_lease_is_prolonged_while_the_block_runs(record):
    before = lease_until(record)
    with Lease(record, CLAIM, lease_s=60, heartbeat_s=0.02) as lease:
        until(lambda: lease_until(record) > before)
        assert not lease.lost


def test_a_record_that_is_away_loses_nothing(record):
    before = lease_until(record)
    record.away = True
    with Lease(record, CLAIM, lease_s=60, heartbeat_s=0.02) as lease:
        for _ in range(2):
            record.asked.clear()
            assert record.asked.wait(HANG_S)
        assert not lease.lost
        record.away = False
        until(lambda: lease_until(record) > before)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda session: requests.request_cancel(session, "j"), "cancel_requested"),
        (lambda session: requests.request_pause(session, "j"), "pause_requested"),
        (lambda session: transitions.release(session, CLAIM, Reason.PREEMPTED), "lost"),
    ],
)
def test_a_renewal_brings_what_was_asked_of_the_job(record, change, flag):
    with Lease(record, CLAIM, lease_s=60, heartbeat_s=0.02) as lease:
        assert not getattr(lease, flag)
        with record.transaction(Scope.everything) as session:
            assert change(session)
        until(lambda: getattr(lease, flag))
