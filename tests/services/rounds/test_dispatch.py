"""A scheduling round: who is sent, what is sent again, and what every waiting job is told."""

import threading
from datetime import timedelta

import pytest
from kombu.exceptions import OperationalError
from sqlalchemy import update

from celora.models import queries, workers
from celora.models.jobs import accept, requests, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import JobClass, Reason, Ruling, Stage, Status
from celora.models.tables import Job, Worker
from celora.services.rounds import dispatch as rounds
from celora.settings.settings import load_settings
from celora.workers import messages as sending

GIB = 2**30


class Room:
    """A record with workers and jobs, and the messages that the rounds sent."""

    def __init__(self, database, monkeypatch):
        self.database, self.settings = database, load_settings(running=False, claim_s=60)
        self.sent, self.broker_away = [], False
        monkeypatch.setattr(sending, "REST_S", 0.0)
        monkeypatch.setattr(sending, "_connection", sending._Connection())

    def _send(self, sending):
        if self.broker_away:
            raise OperationalError("away")
        self.sent.append((sending.job_id, sending.stage.value, sending.attempt, sending.gpu_type))

    def change(self, verb, *args, **options):
        with self.database.transaction(Scope.everything) as session:
            return verb(session, *args, **options)

    def worker(self, name, kind="gpu", gpu_type="cpu", gib=8):
        queues = [f"gpu.{gpu_type}"] if kind == "gpu" else [kind]
        facts = {"host": "h", "kind": kind, "pid": 1, "queues": queues, "slots": 1}
        facts |= {"gpu_type": gpu_type, "memory_bytes": gib * GIB} if kind == "gpu" else {}
        self.change(workers.register, name, **facts)

    def job(self, name="j", stage=Stage.TRAIN, **spec):
        """A job that waits for a stage."""
        fields = {"base_model": "b", "dataset": "/d.jsonl"} | spec
        self.change(accept.submit, job_id=name, spec=parse_spec(fields))
        if stage is not Stage.PREPARE:
            self.change(transitions.send, name, 1, Stage.PREPARE, queue="prep")
            self.claim(name, Stage.PREPARE)
            self.change(transitions.advance, Claim(name, 1, "w"), Stage.PREPARE, {})
        return name

    def claim(self, name="j", stage=Stage.TRAIN, worker="w"):
        row = self.row(name)
        return self.change(transitions.claim, name, row.attempt, stage, worker_id=worker, lease_s=90)

    def row(self, name="j"):
        with self.database.session(Scope.everything) as session:
            return session.get_one(Job, name)

    def why(self, name="j"):
        """The reason why a job waits, as `celora status` prints it."""
        with self.database.session(Scope.everything) as session:
            return queries.job_view(session, name).wait_reason

    def dispatch(self):
        self.sent.clear()
        rounds.dispatch(self.database, self.settings, self._send)
        return self.sent

    def resend(self):
        self.sent.clear()
        rounds.resend(self.database, self.settings, self._send)
        return self.sent

    def later(self, seconds, *columns):
        with self.database.transaction(Scope.everything) as session:
            for job in session.query(Job):
                values = {name: getattr(job, name) - timedelta(seconds=seconds) for name in columns}
                session.execute(update(Job).where(Job.id == job.id).values(**values))


@pytest.fixture
def room(home, database, monkeypatch):
    return Room(database, monkeypatch)


def test_a_job_is_sent_when_a_slot_is_free_and_told_why_it_waits_when_none_is(room):
    room.job()
    assert room.dispatch() == []
    assert "no GPU worker is online" in room.why()
    room.worker("cpu-0@h")
    assert room.dispatch() == [("j", "train", 1, "cpu")]
    room.job("k")
    assert room.dispatch() == []
    assert "all 1 gpu.cpu slots are taken" in room.why("k")


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
    assert room.change(transitions.advance, Claim("j", 1, "w"), Stage.TRAIN, {})
    room.later(61, "sent_at")
    assert room.resend() == [("j", "evaluate", 1, "cpu")]


def test_a_worker_that_is_gone_is_marked_and_gets_nothing(room):
    room.worker("cpu-0@h")
    room.job()
    room.settings = load_settings(running=False, heartbeat_s=0.001, lease_s=0.001)
    assert room.dispatch() == []
    assert "no GPU worker is online" in room.why()


def test_a_recovered_job_goes_before_those_that_waited_longer(room):
    room.worker("cpu-0@h")
    room.job("late", priority=5)
    room.job("lost")
    room.change(requests.request_pause, "late")
    room.dispatch()
    room.claim("lost")
    room.change(requests.resume, "late")
    room.change(transitions.release, Claim("lost", 1, "w"), Reason.PREEMPTED)
    assert room.dispatch() == [("lost", "train", 2, "cpu")]


def test_a_paused_job_is_not_sent_and_says_how_it_goes_on(room):
    room.worker("cpu-0@h")
    room.job()
    room.change(requests.request_pause, "j")
    assert room.dispatch() == []
    assert room.why() == "paused; `celora resume j` lets it go on"
    room.change(requests.resume, "j")
    assert room.dispatch() == [("j", "train", 1, "cpu")]


def test_a_job_that_failed_a_moment_ago_waits_its_time_and_says_so(room):
    room.worker("cpu-0@h")
    room.job()
    room.dispatch()
    room.claim()
    error = {"code": "storage", "message": "m"}
    room.change(transitions.try_again, Claim("j", 1, "w"), error, Ruling(again=True, wait_s=40))
    assert room.dispatch() == []
    assert room.why() == "tried again in 40 s (so far: storage x1)"
    room.later(41, "not_before")
    assert room.dispatch() == [("j", "train", 2, "cpu")]


@pytest.mark.parametrize("verb", ["cordon", "unhealthy", "foreign"])
def test_a_worker_with_an_obstacle_gets_nothing_and_the_job_is_told_which(room, verb):
    room.worker("cpu-0@h")
    room.job()
    if verb == "cordon":
        room.change(workers.cordon, "cpu-0@h", "new fans")
    elif verb == "unhealthy":
        for _ in range(2):
            room.change(workers.count_device_fault, "cpu-0@h", "ECC")
    else:
        room.change(workers.record_heartbeat, "cpu-0@h", foreign_bytes=3 * GIB)
    assert room.dispatch() == []
    told = {"cordon": "cordoned: new fans", "unhealthy": "last: ECC", "foreign": "holds 3.0 GiB"}[verb]
    assert "no GPU worker takes work: cpu-0@h is" in room.why()
    assert told in room.why()
    room.change(workers.record_heartbeat, "cpu-0@h")
    room.change(workers.uncordon, "cpu-0@h")
    assert room.dispatch() == [("j", "train", 1, "cpu")]


def test_what_nobody_takes_from_its_queue_goes_back_to_waiting_and_to_another_type(room):
    room.worker("cpu-0@h")
    room.job()
    room.dispatch()
    room.change(workers.cordon, "cpu-0@h")
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
    larger = Ruling(again=True, reason=Reason.ADJUSTED, paid=False, least_memory_bytes=16 * GIB + 1)
    room.change(transitions.try_again, Claim("j", 1, "w"), {"code": "out_of_memory"}, larger)
    assert room.dispatch() == [("j", "train", 2, "h100")]


def test_a_round_ends_a_job_whose_caller_set_a_time_that_has_passed(room):
    room.job("late", stage=Stage.PREPARE)
    room.job("kept", stage=Stage.PREPARE)
    room.change(accept.submit, job_id="late", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}),
                request={"expires": "2020-01-01T00:00:00+00:00"})  # fmt: skip
    room.worker("prep@h", kind="prep")
    assert [sent[0] for sent in room.dispatch()] == ["kept"]
    assert room.row("late").status is Status.CANCELLED


def test_two_rounds_at_once_release_each_job_once(room):
    """A slot that is given twice would start two trainings on one device."""
    for number in range(3):
        room.worker(f"cpu-{number}@h")
    for number in range(6):
        room.job(f"j{number}")
    start = threading.Barrier(2)

    def round_():
        start.wait()
        rounds.dispatch(room.database, room.settings, room._send)

    threads = [threading.Thread(target=round_) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name, *_ in room.sent) == ["j0", "j1", "j2"]
    assert sorted(room.row(f"j{number}").status for number in range(6)) == [Status.PENDING] * 3 + [Status.QUEUED] * 3


def test_an_urgent_job_takes_the_slot_of_a_lower_class_once_in_a_while(room):
    room.settings = room.settings.model_copy(update={"preemption": True})
    room.worker("cpu-0@h")
    room.job("low")
    room.dispatch()
    room.claim("low")
    room.job("waiting")
    room.job("high")
    room.change(requests.change, "high", requests.JobChanges(job_class=JobClass.URGENT))
    assert room.dispatch() == []
    assert room.row("low").preempt_requested
    low = Claim("low", 1, "w")
    assert room.change(transitions.renew, low, 90) == "pause"
    assert room.dispatch() == []  # the slot is promised: nobody else is asked for his
    assert room.change(transitions.release, low, Reason.PREEMPTED)
    row = room.row("low")
    assert (row.status, row.reason, row.attempt, row.stale_attempts) == (Status.PENDING, Reason.PREEMPTED, 2, 0)
    assert not row.preempt_requested
    assert room.dispatch() == [("high", "train", 1, "cpu")]


def test_a_job_that_was_preempted_is_left_alone_for_a_while(room):
    room.settings = room.settings.model_copy(update={"preemption": True})
    room.worker("cpu-0@h")
    room.job("low")
    room.dispatch()
    room.claim("low")
    with room.database.transaction(Scope.everything) as session:
        session.get_one(Job, "low").preempted_at = queries.now(session)
    room.job("high", job_class="background")
    room.change(requests.change, "high", requests.JobChanges(job_class=JobClass.URGENT))
    assert room.dispatch() == []
    assert not room.row("low").preempt_requested
    with room.database.transaction(Scope.everything) as session:
        low = session.get_one(Job, "low")
        low.preempted_at -= timedelta(seconds=3601)
    room.dispatch()
    assert room.row("low").preempt_requested


def test_without_the_setting_nobody_is_preempted(room):
    room.worker("cpu-0@h")
    room.job("low")
    room.dispatch()
    room.claim("low")
    room.job("high")
    room.change(requests.change, "high", requests.JobChanges(job_class=JobClass.URGENT))
    assert room.dispatch() == []
    assert not room.row("low").preempt_requested


def test_a_reserved_workers_own_queue_gets_its_tenants_jobs_and_another_worker_leaves_them(room):
    facts = {"host": "h", "kind": "gpu", "pid": 1, "slots": 1, "gpu_type": "cpu", "memory_bytes": 8 * GIB}
    own = "gpu.cpu@@mine@h"
    room.change(workers.register, "mine@h", queues=[own], reserved_for="acme", labels="", **facts)
    room.change(workers.register, "big@h", queues=["gpu.cpu@@big@h"], labels="big,fast", **facts)
    room.job("ours", tenant="acme")
    room.job("labelled", tenant="rival", labels=["fast"])
    assert sorted(each[0] for each in room.dispatch()) == ["labelled", "ours"]
    assert {name: room.row(name).queue for name in ("ours", "labelled")} == {"ours": own, "labelled": "gpu.cpu@@big@h"}
    room.job("theirs", tenant="rival", gpu="cpu")
    assert room.dispatch() == []
    assert room.row("theirs").status is Status.PENDING
    room.change(workers.mark_offline, "mine@h")
    room.later(61, "sent_at")
    room.resend()
    assert room.row("ours").status is Status.PENDING
    assert room.row("labelled").status is Status.QUEUED


def test_a_job_goes_to_the_worker_that_holds_its_base_and_back_to_all_if_that_one_does_not_take_it(room, monkeypatch):
    requested = []
    monkeypatch.setattr(rounds, "request_tick_later", requested.append)
    base = {"name": "llama", "revision": "r1"}
    for name in ("cpu-0@h", "cpu-1@h"):
        room.worker(name)
    host = workers.Resident(generation="g", started_at=0, memory_bytes=1, base="llama", revision="r1")
    direct = {"queues": ["gpu.cpu", "gpu.cpu@=cpu-1@h"]}
    with room.database.transaction(Scope.everything) as session:
        session.execute(update(Worker).where(Worker.id == "cpu-1@h").values(**direct))
    room.change(workers.record_resident, "cpu-1@h", host)
    room.job()
    with room.database.transaction(Scope.everything) as session:
        session.execute(update(Job).values(base=base))
    room.resend()
    assert requested == [], "no message waits in a direct queue"
    room.dispatch()
    assert room.row().queue == "gpu.cpu@=cpu-1@h"
    room.resend()
    assert room.row().publication == 2, "it was sent a moment ago"
    assert 0 < requested.pop() <= rounds.DIRECT_S + rounds.SLACK_S, "the next round does not wait for the timer"
    room.later(rounds.DIRECT_S + 1, "sent_at")
    room.resend()
    assert requested == []
    row = room.row()
    assert (row.queue, row.publication, row.status, row.attempt) == ("gpu.cpu", 3, Status.QUEUED, 1)
    assert room.claim(worker="cpu-0@h") is not None
