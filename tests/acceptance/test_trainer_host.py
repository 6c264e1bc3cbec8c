"""A CPU worker with a trainer host, by a setting: the base stays, and whatever is killed, the job ends the same."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from chaos.processes import processes_of, trainers_of
from live_installation import Running, start, stop
from waiting import until

from celora.models import queries
from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.tables import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
POINT = "step.done"


@pytest.fixture
def hosting(tmp_path):
    """An installation with one worker that keeps a host; an armed host stops itself after its fifth step, once."""
    armed = {"CELORA_FAILPOINT": f"{POINT}:stop@5", "CELORA_FAILPOINT_ONCE": str(tmp_path)}
    (tmp_path / POINT).touch()
    installation, patch = start(tmp_path / "home", {"CELORA_TRAINER_HOST": "always", **armed}, spare=False)
    yield Running(installation)
    stop(installation, patch)


def test_a_job_ends_equal_to_the_bit_whatever_is_killed_while_its_host_trains(hosting, spec, tmp_path):
    job = {**spec, "max_steps": 12, "save_steps": 2, "eval_steps": 12, "eval_max_rows": 0}
    plain = completed(hosting, hosting.send(job))
    assert plain["attempt"] == 1
    host = resident(hosting)
    assert (host["base_bytes"] > 0, host["generation"] != "") == (True, True)
    assert completed(hosting, hosting.send(job))["attempt"] == 1
    assert resident(hosting)["generation"] == host["generation"], "the second job found the base of the first"

    for victim in (kill_host, kill_child, kill_worker):
        hosting.run("celora", "host", "restart", "cpu-0")
        until(lambda: not trainers_of(hosting.settings.home), what="the host ends, as it was asked to")
        (tmp_path / POINT).unlink()  # the next host is armed
        sent = hosting.send(job)
        stopped = until(lambda: stopped_host(hosting), what=lambda: f"a host stops in its fifth step\n{hosting.logs()}")
        victim(hosting, stopped)
        ended = completed(hosting, sent)
        assert ended["attempt"] == 2, victim.__name__
        assert weights(hosting, sent.id) == weights(hosting, plain["id"]), victim.__name__
        resumed = [event["data"] for event in hosting.events(sent.id) if event["kind"] == "resumed"]
        assert len(resumed) == 1, victim.__name__


def completed(hosting, result):
    """The job once it has ended; every stage of it is then over."""
    ended = hosting.wait(result.id, lambda job: job["status"] in ("completed", "failed"))
    assert ended["status"] == "completed", (ended["error"], hosting.logs())
    return ended


def resident(hosting):
    """The worker's host as the record shows it."""
    database = Database(hosting.settings.database)
    try:
        with database.session(Scope.everything) as session:
            return next(row["resident"] for row in queries.workers(session) if row["kind"] == "gpu")
    finally:
        database.dispose()


def stopped_host(hosting):
    """The process id of a host that the failpoint stopped; None while there is none."""
    return next((one.pid for one in trainers_of(hosting.settings.home) if one.state == "T"), None)


def kill_host(_hosting, stopped):
    os.kill(stopped, signal.SIGKILL)


def kill_child(hosting, stopped):
    """Kill the process that supervises the run; the host, which goes on, notices the end of its supervisor."""
    main = hosting.service("cpu-0").process.pid
    trainers = {one.pid for one in trainers_of(hosting.settings.home)}
    for child in psutil.Process(main).children():
        if child.pid not in trainers:
            child.kill()
    os.kill(stopped, signal.SIGCONT)


def kill_worker(hosting, stopped):
    """Kill the worker with its children; the host, which goes on, notices the end of its owner and leaves."""
    main = hosting.service("cpu-0").process
    os.killpg(main.pid, signal.SIGKILL)
    os.kill(stopped, signal.SIGCONT)
    until(lambda: all(one.pid != stopped for one in processes_of(hosting.settings.home)), what="the host leaves")
    main.wait()
    hosting.installation.node.services.restart_ended()
    until(lambda: restarted(hosting), what="the worker is started again")


def restarted(hosting):
    hosting.installation.node.services.restart_ended()
    return hosting.service("cpu-0").alive()


def weights(hosting, job_id):
    database = Database(hosting.settings.database)
    try:
        with database.session(Scope.everything) as session:
            folder = Path(session.get_one(Job, job_id).adapter_uri.removeprefix("file://"))
    finally:
        database.dispose()
    return (folder / "adapter_model.safetensors").read_bytes()
