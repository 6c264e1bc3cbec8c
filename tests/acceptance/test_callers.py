"""What a caller hears: link, link_error, chain, group and chord follow the job, on a Redis shared with another app."""

import json
import os
import subprocess
import sys

import pytest
from celery import chain, chord
from waiting import HANG_S, until

from celora.workers.node.processes import Service, Services

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def lines(path):
    return path.read_text().splitlines()


def finetune(running, spec):
    return running.foreign.signature("celora.finetune", kwargs=spec, queue="celora")


def took(running, mark="took"):
    return running.foreign.signature("elsewhere.took", kwargs={"mark": mark}, queue="elsewhere")


def test_link_chain_and_chord_fire_once_at_the_jobs_end(running, spec, foreign_worker):
    first = finetune(running, spec)
    first.link(took(running, "link"))
    chained = chain(first, took(running, "chain")).apply_async()
    header = [finetune(running, {**spec, "seed": n}) for n in (2, 3)]
    gathered = chord(header)(running.foreign.signature("elsewhere.gather", queue="elsewhere"))
    assert gathered.get(timeout=300) == 2
    assert [summary["status"] for summary in gathered.parent.get(timeout=HANG_S)] == ["completed", "completed"]
    job_id = chained.parent.id
    assert chained.get(timeout=HANG_S) == job_id
    until(lambda: f"link completed {job_id}" in lines(foreign_worker))
    assert sorted(lines(foreign_worker)) == [
        f"chain completed {job_id}",
        "gather 2 completed,completed",
        f"link completed {job_id}",
    ]


def test_link_error_fires_when_the_job_fails(running, spec, foreign_worker, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    result = finetune(running, {**spec, "dataset": str(empty)}).apply_async(
        link_error=running.foreign.signature("elsewhere.failed", queue="elsewhere")
    )
    with pytest.raises(Exception, match="bad_data"):
        result.get(timeout=HANG_S)
    until(lambda: f"failed {result.id}" in lines(foreign_worker))
    assert lines(foreign_worker).count(f"failed {result.id}") == 1


def test_the_other_apps_own_tasks_run_once_beside_our_workers(running, foreign_worker):
    """Both last longer than our visibility time-out; without key names of our own they would be given out again."""
    wait_s = running.settings.visibility_timeout_s + 7
    running.foreign.send_task("elsewhere.slow", args=(wait_s,), queue="elsewhere")
    running.foreign.send_task("elsewhere.later", queue="elsewhere", countdown=wait_s)
    until(lambda: {"slow done", "later ran"} <= set(lines(foreign_worker)))
    running.foreign.send_task("elsewhere.failed", args=("last",), queue="elsewhere")
    until(lambda: "failed last" in lines(foreign_worker))
    assert sorted(lines(foreign_worker)) == ["failed last", "later ran", "slow done", "slow started"]


OLDEST = "5.3.6"


def test_an_app_on_an_old_celery_without_our_result_backend_is_called_back(
    running, spec, tmp_path, old_celery, foreign_app
):
    """It sends with ``link`` and never reads a result: the callback alone tells it."""
    folder = old_celery(OLDEST)
    written = tmp_path / "ran.txt"
    written.touch()
    (tmp_path / "elsewhere.py").write_text(foreign_app)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{tmp_path}",
        "BROKER": running.settings.broker_url,
        "BACKEND": "cache+memory://",
        "WRITTEN": str(written),
    }
    services = Services(tmp_path)
    services.start(
        Service(
            name="old",
            command=[sys.executable, "-m", "celery", "-A", "elsewhere", "worker", "-Q", "elsewhere,celery", "-c", "1"],
            environment=environment,
            log=tmp_path / "old.log",
        )
    )
    program = (
        "import celery, json, sys, elsewhere; assert celery.__version__ == sys.argv[1];"
        "link = elsewhere.app.signature('elsewhere.took', queue='elsewhere');"
        "sent = elsewhere.app.send_task("
        "    'celora.finetune', kwargs=json.loads(sys.argv[2]), queue='celora', link=link); print(sent.id)"
    )
    try:
        sent = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, OLDEST, json.dumps(spec)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        job_id = sent.stdout.strip()
        running.wait(job_id, lambda job: job["status"] == "completed", timeout_s=HANG_S)
        until(lambda: f"took completed {job_id}" in lines(written))
        assert lines(written) == [f"took completed {job_id}"]
    finally:
        services.stop(10)
