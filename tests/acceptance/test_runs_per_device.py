"""A worker with two slots: two jobs are inside of its host and take turns, and each ends as it would alone."""

from pathlib import Path

import pytest
from live_installation import Running, start, stop
from sqlalchemy import func, select

from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import Charge, Hold, Job, Worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = {"CELORA_TRAINER_HOST": "always", "CELORA_RUNS_PER_DEVICE": "2"}


@pytest.fixture
def sharing(tmp_path):
    """An installation with one worker, whose host carries two runs at a time."""
    installation, patch = start(tmp_path / "home", SETTINGS, spare=False)
    yield Running(installation)
    stop(installation, patch)


def test_two_jobs_take_turns_on_a_device_and_those_that_may_not_share_it_wait(sharing, spec):
    long = {**spec, "max_steps": 60, "eval_steps": 60, "save_steps": 60, "eval_max_rows": 0}
    both = [sharing.send({**long, "seed": seed}) for seed in (1, 2)]
    inside = [sharing.wait(one.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 3) for one in both]
    assert [job["status"] for job in inside] == ["running", "running"]
    short = {**spec, "max_steps": 1, "eval_max_rows": 0}
    alone = sharing.send({**short, "exclusive": True})
    stranger = sharing.send({**short, "tenant": "team-a"})
    ended = {result.id: completed(sharing, result) for result in (*both, alone, stranger)}
    assert {job["attempt"] for job in ended.values()} == {1}
    again = []
    for seed in (1, 2):  # each alone
        again.append(sharing.send({**long, "seed": seed}))
        completed(sharing, again[-1])

    database = Database(sharing.settings.database)
    try:
        with database.session(Scope.everything) as session:
            assert session.scalars(select(Worker.slots).where(Worker.kind == "gpu")).all() == [2]
            rows = {job.id: job for job in session.scalars(select(Job))}
            assert [weights_of(rows[one.id]) for one in both] == [weights_of(rows[one.id]) for one in again]
            shared = [rows[one] for one in ended]
            began = min(started(sharing, job.id) for job in shared)
            device_s = (max(job.finished_at for job in shared) - began).total_seconds()
            assert 0 < sum(job.gpu_seconds for job in shared) <= device_s + 0.1
            for job in rows.values():
                charged = session.scalar(select(func.sum(Charge.device_ms)).where(Charge.job_id == job.id)) or 0
                assert charged == round(job.gpu_seconds * 1000)
            assert session.scalars(select(Hold)).all() == []
    finally:
        database.dispose()


def started(sharing, job_id):
    """The time at which a job's training began."""
    events = (event for event in sharing.events(job_id) if event["kind"] == "stage_started")
    return next(event["at"] for event in events if event["message"].startswith("train started"))


def completed(sharing, result):
    ended = sharing.wait(result.id, lambda job: job["status"] in ("completed", "failed"))
    assert ended["status"] == "completed", (ended["error"], sharing.logs())
    return ended


def weights_of(job):
    return (Path(job.adapter_uri.removeprefix("file://")) / "adapter_model.safetensors").read_bytes()
