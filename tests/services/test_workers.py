"""Stopping and starting, on real workers: cordon and uncordon, drain by name, pause and resume of a job that trains."""

import pytest

from celora.models import queries
from celora.models.database import Database
from celora.models.scope.scope import Scope

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def row_of(running, name):
    database = Database(running.settings.database)
    try:
        with database.session(Scope.everything) as session:
            rows = [row for row in queries.workers(session, 2**30) if row["id"].startswith(f"{name}@")]
            return rows[0] if rows else None
    finally:
        database.dispose()


def reads(running, worker_id):
    told = running.foreign.control.inspect(destination=[worker_id], timeout=5).active_queues()
    return [queue["name"] for queue in (told or {}).get(worker_id, [])]


def test_a_job_outlives_a_cordon_a_drain_by_name_and_a_pause(running, spec, legal_history):
    running.until(lambda: row_of(running, "cpu-1"))
    kept_away = row_of(running, "cpu-1")["id"]
    assert "takes no more work" in running.run("celora", "cordon", "cpu-1", "--note", "Ada needs it")
    running.until(lambda: reads(running, kept_away) == [])
    assert row_of(running, "cpu-1")["obstacle"] == "cordoned: Ada needs it"
    result = running.send({**spec, "max_steps": 2000, "eval_steps": 2000})
    job = running.wait(result.id, lambda job: job["stage"] == "train" and (job["step"] or 0) >= 3)
    assert job["worker"].startswith("cpu-0@")
    running.run("celora", "uncordon", "cpu-1")
    running.until(lambda: reads(running, kept_away) == ["gpu.cpu"])

    drained = running.service("cpu-0")
    assert "drains" in running.run("celora", "drain", "cpu-0")
    assert drained.process.wait(timeout=240) == 0
    running.installation.node.services.restart_ended()
    running.installation.node.services.restart_ended()
    assert not drained.alive()
    assert drained.left
    assert row_of(running, "cpu-0")["status"] == "offline"

    def goes_on(job):
        return job["worker"] == kept_away and job["stage"] == "train" and job["step"] > job["resume_step"]

    job = running.wait(result.id, goes_on)
    assert job["attempt"] == 2

    assert "is pausing" in running.run("celora", "pause", result.id)
    paused = running.wait(result.id, lambda job: job["paused"])
    assert (paused["status"], paused["stage"], paused["worker"]) == ("pending", "train", None)
    assert not [command for _, command in running.processes() if b"tuning.trainer" in command]
    assert "goes on" in running.run("celora", "resume", result.id)
    running.wait(result.id, lambda job: job["attempt"] == 3 and (job["step"] or 0) > (job["resume_step"] or 1e9))
    result.revoke()
    running.wait(result.id, lambda job: job["status"] == "cancelled")
    events = running.events(result.id)
    assert legal_history(events) == []
    released = [event["data"]["resume_step"] for event in events if event["kind"] == "released"]
    resumed = [event["message"].split("from step ")[1].split()[0] for event in events if event["kind"] == "resumed"]
    assert [str(step) for step in released] == resumed
    assert running.job(result.id)["stale_attempts"] == 0
