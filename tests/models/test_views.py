"""A view of a job is frozen, has a fixed order, and becomes plain JSON."""

import json
from dataclasses import FrozenInstanceError

import pytest

from celora.models import queries
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.views import view_of

WORKER = "cpu-0@here"


def test_a_view_cannot_be_changed_and_becomes_json(record):
    record.new()
    view = view_of(record.job(), {})
    with pytest.raises(FrozenInstanceError):
        view.status = "completed"
    plain = view.plain()
    assert list(plain)[:4] == ["id", "status", "stage", "reason"]
    assert json.loads(json.dumps(plain, default=str))["status"] == "pending"


def test_the_speed_is_a_running_jobs_alone_and_the_loss_stays(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.record_progress(Claim("job", 1, WORKER), {"loss": 2.0, "tokens_per_s": 9.0, "eta_s": 3.0})
    assert (view_of(record.job(), {}).loss, view_of(record.job(), {}).tokens_per_s) == (2.0, 9.0)
    record.advance(Claim("job", 1, WORKER), Stage.TRAIN, {})
    assert (view_of(record.job(), {}).loss, view_of(record.job(), {}).tokens_per_s) == (2.0, None)


def test_the_seconds_of_a_stage_are_summed_over_its_attempts(record):
    record.new()
    for stage, seconds in (("train", 1.25), ("prepare", 0.5), ("train", 2.5)):
        record.record_event("job", 1, "info", "released", "", {"stage": stage, "seconds": seconds})
    record.record_event("job", 1, "info", "stage_started", "", {"stage": "train"})
    with record.database.session(Scope.everything) as session:
        assert queries.job_detail(session, "job").stage_seconds == {"prepare": 0.5, "train": 3.75}
