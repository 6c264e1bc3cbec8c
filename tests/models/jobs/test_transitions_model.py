"""Random calls by anybody, in any order, against a model of the life of a job in plain Python."""

import uuid
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from celora.models import queries
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Reason, Ruling, Stage, Status
from celora.models.tables import Announcement

MAX_ATTEMPTS = 3
WORKER, OTHER = "cpu-0@here", "cpu-1@there"
ERROR = {"code": "internal", "message": "it broke"}
TRAIN = 1
STAGES = list(Stage)


class Model:
    """What the record ought to do. Each verb gets whether the caller owns the job and names the present stage."""

    def __init__(self):
        self.status, self.stage, self.attempt, self.stale = "pending", 0, 1, 0
        self.worker, self.cancelling, self.resumed, self.reached = None, False, 0, 0
        self.saved = 0  # the furthest checkpoint of the present attempt
        self.paused = self.pausing = False

    def owns(self, attempt, worker):
        return self.status == "running" and (attempt, worker) == (self.attempt, self.worker)

    def send(self, _ours, here, _worker):
        return here and not self.paused and self._move("pending", "queued")

    def resend(self, _ours, here, _worker):
        return here and self.status == "queued"

    def claim(self, _ours, here, worker):
        if not here or not self._move("queued", "running"):
            return False
        self.worker, self.saved = worker, 0
        self.resumed = self.reached if self.stage == TRAIN else self.resumed
        return True

    def renew(self, ours, _here, _worker):
        return ("cancel" if self.cancelling else "pause" if self.pausing else "ok") if ours else "lost"

    def advance(self, ours, here, _worker):
        if not (ours and here):
            return False
        if self.cancelling:
            self.status = "cancelled"
            return False
        self.status = ["pending", "queued", "queued", "completed"][self.stage]
        self.stage, self.stale, self.reached = min(3, self.stage + 1), 0, max(self.reached, self.saved)
        if self.pausing and self.status != "completed":
            self.status = "pending"
        self._pauses()
        return True

    def fail(self, ours, _here, _worker):
        return ours and self._move("running", "failed")

    def cancelled(self, ours, _here, _worker):
        return ours and self._move("running", "cancelled")

    def release(self, ours, _here, _worker):
        return ours and self._again(self.stale)

    def retry(self, ours, _here, _worker):
        return ours and self._again(self._one_more())

    def expire(self, _ours, _here, _worker):
        if self.status != "running":
            return False
        if not self.cancelling and self._one_more() >= MAX_ATTEMPTS:
            self.status, self.stale = "failed", self._one_more()
            return True
        return self._again(self._one_more())

    def cancel(self, _ours, _here, _worker):
        if self.status == "running":
            self.cancelling = True
            return "cancelling"
        return "cancelled" if self._move("pending", "cancelled") or self._move("queued", "cancelled") else "final"

    def pause(self, _ours, _here, _worker):
        if self.status in ("completed", "failed", "cancelled"):
            return "final"
        if self.cancelling:
            return "cancelling"
        if self.status == "running":
            self.pausing = True
            return "pausing"
        self.attempt += self.status == "queued"  # its message is stale from now on
        self.status, self.paused = "pending", True
        return "paused"

    def resume(self, _ours, _here, _worker):
        there_was_one = self.status in ("pending", "queued", "running") and (self.paused or self.pausing)
        self.paused = self.pausing = False
        return there_was_one

    def hand_back(self, _ours, here, _worker):
        return here and self._move("queued", "pending")

    def checkpoint(self, ours, _here, _worker):
        if not ours or self.stage != TRAIN:
            return False
        self.saved = self.reached + 1
        return True

    def progress(self, ours, _here, _worker):
        return ours

    def _move(self, from_, to):
        if self.status != from_:
            return False
        self.status = to
        return True

    def _one_more(self):
        return 0 if self.stage == TRAIN and self.saved > self.resumed else self.stale + 1

    def _again(self, stale):
        if self.cancelling:
            return self._move("running", "cancelled")
        self.stale, self.reached = stale, max(self.reached, self.saved)
        self.attempt += 1
        self._pauses()
        return self._move("running", "pending")

    def _pauses(self):
        self.paused, self.pausing = self.pausing, False


class Real:
    """The same verbs on the record, each with the attempt, stage and worker that its caller believes in."""

    def __init__(self, record, job_id):
        self.record, self.id = record, job_id

    def send(self, attempt, stage, _worker):
        return self.record.send(self.id, attempt, stage, queue="q", gpu_type="cpu") is not None

    def resend(self, attempt, stage, _worker):
        return self.record.resend(self.id, attempt, stage, self.record.job(self.id).publication) is not None

    def claim(self, attempt, stage, worker):
        return self.record.claim(self.id, attempt, stage, worker_id=worker, lease_s=90) is not None

    def renew(self, attempt, _stage, worker):
        return self.record.renew(Claim(self.id, attempt, worker), 90)

    def advance(self, attempt, stage, worker):
        return self.record.advance(Claim(self.id, attempt, worker), stage, {})

    def fail(self, attempt, _stage, worker):
        return self.record.fail(Claim(self.id, attempt, worker), ERROR)

    def cancelled(self, attempt, _stage, worker):
        return self.record.finish_cancel(Claim(self.id, attempt, worker))

    def release(self, attempt, _stage, worker):
        return self.record.release(Claim(self.id, attempt, worker), Reason.PREEMPTED)

    def retry(self, attempt, _stage, worker):
        return self.record.try_again(Claim(self.id, attempt, worker), ERROR, Ruling(again=True, reason=Reason.RETRYING))

    def expire(self, *_):
        with self.record.database.session(Scope.everything) as session:
            later = self.record.database.now(session) + timedelta(hours=1)
        return [job.id for job in self.record.expire(later, MAX_ATTEMPTS)] == [self.id]

    def cancel(self, *_):
        return self.record.request_cancel(self.id)

    def pause(self, *_):
        return self.record.request_pause(self.id)

    def resume(self, *_):
        return self.record.resume(self.id)

    def hand_back(self, attempt, stage, _worker):
        return self.record.hand_back(self.id, attempt, stage, "it is cordoned")

    def checkpoint(self, attempt, _stage, worker):
        with self.record.database.session(Scope.everything) as session:
            reached = [row.step for row in queries.resume_candidates(session, self.id)]
        facts = {"step": max(reached, default=0) + 1, "uri": "u", "size_bytes": 1, "manifest_sha256": "0" * 64}
        return self.record.record_checkpoint(Claim(self.id, attempt, worker), **facts)

    def progress(self, attempt, _stage, worker):
        return self.record.record_progress(Claim(self.id, attempt, worker), {"loss": 1.0})


ONWARD = {"pending": "send", "queued": "claim", "running": "advance"}
VERBS = [name for name in vars(Real) if not name.startswith("_")]
CALLS = st.tuples(
    st.sampled_from(["onward"] * 25 + ["checkpoint", "expire", "release", "pause", "resume", "resume"] * 4 + VERBS),
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, -1, 1]),  # which attempt the caller believes to be the present one
    st.sampled_from([WORKER] * 5 + [OTHER]),
    st.sampled_from([0] * 7 + [1]),  # which stage
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS, min_size=10, max_size=40))
def test_whatever_anybody_tries_the_record_does_what_the_model_says(record, legal_history, calls):
    model, real = Model(), Real(record, uuid.uuid4().hex)
    record.new(real.id)
    for called, off, worker, further in calls:
        verb = ONWARD.get(model.status, "send") if called == "onward" else called
        attempt, stage = max(1, model.attempt + off), (model.stage + further) % 4
        ours, here = model.owns(attempt, worker), (attempt, stage) == (model.attempt, model.stage)
        expected = getattr(model, verb)(ours, here, worker)
        assert getattr(real, verb)(attempt, STAGES[stage], worker) == expected, verb
        job = record.job(real.id)
        found = (job.status, job.stage, job.attempt, job.stale_attempts)
        assert found == (model.status, STAGES[model.stage], model.attempt, model.stale), verb
        if not job.status.final:
            assert (job.paused, job.pause_requested) == (model.paused, model.pausing), verb
    event(f"ends {model.status} in {STAGES[model.stage]}, attempt {min(model.attempt, 4)}")
    with record.database.session(Scope.everything) as session:
        assert legal_history(queries.events(session, real.id)) == []
        owed = session.get(Announcement, real.id) is not None
    assert owed == record.job(real.id).status.final
    if record.job(real.id).status is Status.RUNNING:
        record.finish_cancel(Claim(real.id, model.attempt, model.worker))
