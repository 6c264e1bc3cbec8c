"""Files that change after their check, against a whole installation: a link out of the allowed folder, and FIFOs."""

import json
import os
import platform

import pytest

from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import Schedule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECRET = "a line that nobody may read"
FAST_JOB = {"max_steps": 1, "rank": 4, "eval_max_rows": 0, "micro_batch": 1, "effective_batch": 1, "max_length": 64}


@pytest.fixture
def allowed(tmp_path):
    """The only folder that jobs may name."""
    folder = tmp_path / "allowed"
    folder.mkdir()
    return folder


@pytest.fixture
def installation(started, allowed):
    """A running installation whose workers read rows and bases below the allowed folder alone."""
    from live_installation import make_base

    make_base(allowed / "base")
    return started({"CELORA_ALLOWED_ROOTS": json.dumps([str(allowed)])})


def rows(path, prefix=""):
    """Thirty rows."""
    lines = [{"instruction": f"{prefix}colour of {number}", "output": f"{number} is red"} for number in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_link_that_was_swapped_in_while_the_job_waited_is_refused_and_nothing_of_its_target_is_kept(
    installation, allowed, tmp_path
):
    private = tmp_path / "private.jsonl"
    rows(private, SECRET)
    spec = {**FAST_JOB, "base_model": str(allowed / "base"), "dataset": str(rows(allowed / "rows.jsonl"))}
    prep = f"prep@{platform.node()}"
    installation.run("celora", "cordon", prep)
    installation.send(spec, task_id="bait")
    installation.wait("bait", lambda job: job["status"] in ("pending", "queued"))
    (allowed / "rows.jsonl").unlink()
    (allowed / "rows.jsonl").symlink_to(private)
    installation.run("celora", "uncordon", prep)
    job = installation.wait("bait", lambda job: job["status"] in ("failed", "completed"))
    assert job["status"] == "failed"
    assert "outside" in job["error"]["message"] or "allowed" in job["error"]["message"], job["error"]
    home = installation.settings.home
    kept = [path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []


def test_two_schedules_whose_files_become_fifos_stop_nobody(installation, allowed):
    spec = {**FAST_JOB, "base_model": str(allowed / "base")}
    watched = [rows(allowed / f"s{number}.jsonl", f"{number} ") for number in range(2)]
    for path in watched:
        job = allowed / f"{path.stem}.json"
        job.write_text(json.dumps({**spec, "dataset": str(path)}))
        installation.run("celora", "schedule", "add", path.stem, "--when-data-changed", "--spec", str(job))
    for path in watched:
        path.unlink()
        os.mkfifo(path)
    database = Database(installation.settings.database)

    def faults():
        with database.session(Scope.everything) as session:
            return [one.last_error for one in session.query(Schedule) if one.last_error]

    try:
        installation.until(lambda: len(faults()) == len(watched))
        assert all("regular files" in fault for fault in faults()), faults()
    finally:
        database.dispose()
    installation.send({**spec, "dataset": str(rows(allowed / "good.jsonl"))}, task_id="good")
    installation.wait("good", lambda job: job["status"] == "completed")
