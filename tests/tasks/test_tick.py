"""A scheduling round: who is sent, what is sent again, and what every waiting job is told."""

from datetime import timedelta

import pytest
from kombu.exceptions import OperationalError
from sqlalchemy import update

from celora.models import transitions
from celora.models.spec import parse_spec
from celora.models.states import Reason, Stage, Status
from celora.models.tables import Job
from celora.settings.settings import load_settings
from celora.tasks import tick as rounds
from celora.workers import sending

GIB = 2**30


class Room:
    """A record with workers and jobs, and the messages that the rounds sent."""

    def __init__(self, database, monkeypatch):
        self.database, self.settings = database, load_settings(running=False, claim_s=60)
        self.sent, self.broker_away = [], False
        monkeypatch.setattr(rounds, "send", self._send)
        monkeypatch.setattr(sending, "REST_S", 0.0)
        monkeypatch.setattr(sending, "_line", sending._Line())

    def _send(self, sending, stage):
        if self.broker_away:
            raise OperationalError("away")
        self.sent.append((sending.job_id, stage.value, sending.attempt, sending.gpu_type))

    def change(self, verb, *args, **options):
        with self.database.transaction() as session:
            return verb(session, *args, **options)

    def worker(self, name, kind="gpu", gpu_type="cpu", gib=8):
        queues = [f"gpu.{gpu_type}"] if kind == "gpu" else [kind]
        facts = {"host": "h", "kind": kind, "pid": 1, "queues": queues, "slots": 1}
        facts |= {"gpu_type": gpu_type, "memory_bytes": gib * GIB} if kind == "gpu" else {}
        self.change(transitions.register, name, **facts)

    def job(self, name="j", stage=Stage.TRAIN, **spec):
        """A job that waits for a stage."""
        fields = {"base_model": "b", "dataset": "/d.jsonl"} | spec
        self.change(transitions.submit, job_id=name, spec=parse_spec(fields))
        if stage is not Stage.PREPARE:
            self.change(transitions.send, name, 1, Stage.PREPARE, queue="prep")
            self.claim(name, Stage.PREPARE)
            self.change(transitions.advance, name, 1, Stage.PREPARE, worker_id="w", values={})
        return name

    def claim(self, name="j", stage=Stage.TRAIN, worker="w"):
        row = self.row(name)
        return self.change(transitions.claim, name, row.attempt, stage, worker_id=worker, lease_s=90)

    def row(self, name="j"):
        with self.database.session() as session:
            return session.get_one(Job, name)

    def dispatch(self):
        self.sent.clear()
        rounds.dispatch(self.database, self.settings)
        return self.sent

    def resend(self):
        self.sent.clear()
        rounds.resend(self.database, self.settings)
        return self.sent

    def later(self, seconds, *columns):
        with self.database.transaction() as session:
            for job in session.query(Job):
                values = {name: getattr(job, name) - timedelta(seconds=seconds) for name in columns}
                session.execute(update(Job).where(Job.id == job.id).values(**values))


@pytest.fixture
def room(home, database, monkeypatch):
    return Room(database, monkeypatch)


def test_a_job_is_sent_when_a_slot_is_free_and_told_why_it_waits_when_none_is(room):
    room.job()
    assert room.dispatch() == []
    assert "no GPU worker is online" in room.row().wait_reason
    room.worker("cpu-0@h")
    assert room.dispatch() == [("j", "train", 1, "cpu")]
    room.job("k")
    assert room.dispatch() == []
    assert "all 1 gpu.cpu slots are taken" in room.row("k").wait_reason


def test_what_was_committed_and_never_sent_is_sent_by_a_later_round(room):
    room.worker("cpu-0@h")
    room.job()
    room.broker_away = True
    assert room.dispatch() == []
    assert room.row().status is Status.QUEUED
    room.broker_away = False
    room.later(61, "sent_at")
    assert room.resend() == [("j", "train", 1, "cpu")]


def test_what_was_sent_and_never_claimed_is_sent_again_and_only_one_of_the_two_is_carried(room):
    room.worker("cpu-0@h")
    room.job()
    room.dispatch()
    assert room.resend() == []
    room.later(61, "sent_at")
    assert room.resend() == [("j", "train", 1, "cpu")]
    assert room.claim(worker="one") is not None
    assert room.claim(worker="two") is None


def test_a_stage_that_is_done_and_whose_next_was_never_sent_goes_on(room):
    room.worker("cpu-0@h")
    room.job()
    room.dispatch()
    room.claim()
    assert room.change(transitions.advance, "j", 1, Stage.TRAIN, worker_id="w", values={})
    room.later(61, "sent_at")
    assert room.resend() == [("j", "evaluate", 1, "cpu")]


def test_a_worker_that_is_gone_is_marked_and_gets_nothing(room):
    room.worker("cpu-0@h")
    room.job()
    room.settings = load_settings(running=False, heartbeat_s=0.001, lease_s=0.001)
    assert room.dispatch() == []
    assert "no GPU worker is online" in room.row().wait_reason


def test_a_recovered_job_goes_before_those_that_waited_longer(room):
    room.worker("cpu-0@h")
    room.job("late", priority=5)
    room.job("lost")
    room.change(transitions.request_pause, "late")
    room.dispatch()
    room.claim("lost")
    room.change(transitions.resume, "late")
    room.change(transitions.release, "lost", 1, worker_id="w", reason=Reason.PREEMPTED)
    assert room.dispatch() == [("lost", "train", 2, "cpu")]


def test_a_paused_job_is_not_sent_and_says_how_it_goes_on(room):
    room.worker("cpu-0@h")
    room.job()
    room.change(transitions.request_pause, "j")
    assert room.dispatch() == []
    assert room.row().wait_reason == "paused; `celora resume j` lets it go on"
    room.change(transitions.resume, "j")
    assert room.dispatch() == [("j", "train", 1, "cpu")]


def test_a_job_that_failed_a_moment_ago_waits_its_time_and_says_so(room):
    room.worker("cpu-0@h")
    room.job()
    room.dispatch()
    room.claim()
    error = {"code": "storage", "message": "m"}
    room.change(transitions.release, "j", 1, worker_id="w", reason=Reason.RETRYING, error=error, wait_s=40)
    assert room.dispatch() == []
    assert room.row().wait_reason == "tried again in 40 s (so far: storage x1)"
    room.later(41, "not_before")
    assert room.dispatch() == [("j", "train", 2, "cpu")]


@pytest.mark.parametrize("verb", ["cordon", "unhealthy", "foreign"])
def test_a_worker_with_an_obstacle_gets_nothing_and_the_job_is_told_which(room, verb):
    room.worker("cpu-0@h")
    room.job()
    if verb == "cordon":
        room.change(transitions.cordon, "cpu-0@h", "new fans")
    elif verb == "unhealthy":
        for _ in range(2):
            room.change(transitions.device_fault, "cpu-0@h", "ECC")
    else:
        room.change(transitions.seen, "cpu-0@h", foreign_bytes=3 * GIB)
    assert room.dispatch() == []
    told = {"cordon": "cordoned: new fans", "unhealthy": "last: ECC", "foreign": "holds 3.0 GiB"}[verb]
    assert "no GPU worker takes work: cpu-0@h is" in room.row().wait_reason
    assert told in room.row().wait_reason
    room.change(transitions.seen, "cpu-0@h")
    room.change(transitions.uncordon, "cpu-0@h")
    assert room.dispatch() == [("j", "train", 1, "cpu")]


def test_what_nobody_takes_from_its_queue_goes_back_to_waiting_and_to_another_type(room):
    room.worker("cpu-0@h")
    room.job()
    room.dispatch()
    room.change(transitions.cordon, "cpu-0@h")
    room.later(61, "sent_at")
    assert room.resend() == []
    assert room.row().status is Status.PENDING
    room.worker("t4-0@h", gpu_type="t4")
    assert room.dispatch() == [("j", "train", 1, "t4")]


def test_a_job_that_needs_more_memory_after_all_goes_to_a_larger_device(room):
    room.worker("t4-0@h", gpu_type="t4", gib=16)
    room.worker("h100-0@h", gpu_type="h100", gib=80)
    room.job()
    assert room.dispatch() == [("j", "train", 1, "t4")]
    room.claim()
    options = {"reason": Reason.ADJUSTED, "error": {"code": "out_of_memory"}, "paid": False}
    room.change(transitions.release, "j", 1, worker_id="w", least_memory_bytes=16 * GIB + 1, **options)
    assert room.dispatch() == [("j", "train", 2, "h100")]
