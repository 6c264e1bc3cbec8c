"""An installation moves to separate users of its broker while jobs run, as docs/howto/broker-roles.md says."""

import json
import os
import shlex
import subprocess
import sys
import time

import pytest
import redis
from celery import Celery
from chaos.cluster import Cluster
from chaos.oracle import faults
from kombu.exceptions import OperationalError

from celora.workers.node import broker_server
from celora.workers.node.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WAIT_S = 300
OPERATOR = {"username": "operator", "password": "operators-long-word"}


@pytest.fixture
def server(tmp_path):
    """A server with one password for everybody, as every installation of before has; its port."""
    port = free_port()
    program = [broker_server.find_server(), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "one-password"]
    process = subprocess.Popen([*program, "--save", "", "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    yield port
    process.terminate()
    process.wait()


def test_an_installation_moves_to_roles_while_its_jobs_run(server, tmp_path):
    everybody = f"redis://:one-password@127.0.0.1:{server}/0"
    workers = f"redis://celora-worker:another-long-password@127.0.0.1:{server}/0"
    first, operator = (redis.Redis(port=server, **login) for login in ({"password": "one-password"}, OPERATOR))
    _until(first.ping)
    with Cluster(tmp_path / "home", broker_url=everybody, settings={"CELORA_RESULT_BACKEND": ""}) as cluster:
        cluster.start(1)
        ids = cluster.submit(2, steps=300)
        # 1. A user for the operator.
        first.execute_command("ACL", "SETUSER", "operator", "on", f">{OPERATOR['password']}", "~*", "&*", "+@all")
        first.close()
        # 2. The workers' user.
        make_users(operator, "worker", everybody, workers)
        # 3. Each process of celora anew with the second URL, one after the other; jobs go on.
        for name in ("beat", "prep", "cpu-0", "control"):
            old = cluster.workers[name]
            old.terminate()
            old.wait(60)
            kind = "gpu" if name.startswith("cpu") else name
            cluster.start_worker(kind, name, {"CELORA_WORKER_BROKER_URL": workers})
            cluster.wait_registered()
        # 4. Restrict applications, when nobody of celora uses the default user any more.
        _until(lambda: {one["user"] for one in operator.client_list()} <= {"celora-worker", "operator"})
        make_users(operator, "application", everybody, workers)
        ids += cluster.submit(1, steps=20)
        cluster.wait_final(ids, WAIT_S)
        assert faults(cluster, ids) == []
        assert [one for one in operator.acl_log() if one["username"] == "celora-worker"] == []
        # 6. Doctor says so.
        cluster.environment["CELORA_WORKER_BROKER_URL"] = workers
        checks = json.loads(cluster.command("celora", "doctor", "--quick", "--json", check=False))["findings"]
        (roles,) = [check for check in checks if check["check"] == "broker.roles"]
        assert roles["level"] == "ok", roles
        assert "neither read nor delete" in json.dumps(roles), roles
        application_keeps_its_own_and_no_more(everybody)
        cluster.stop(grace_s=0)
    operator.close()


def application_keeps_its_own_and_no_more(url):
    """An application sends jobs and uses its own queue; a stage's queue and celora's lists are closed to it."""
    with Celery("shop", broker=url, backend=url) as app:
        app.conf.update(broker_transport_options={"max_retries": 0}, task_default_queue="shop")
        app.send_task("shop.own")
        with pytest.raises(OperationalError, match="No permissions"):
            app.send_task("celora.train", args=["id", 1], queue="gpu.cpu", retry=False)
    with redis.Redis.from_url(url) as client:
        assert client.llen("shop") == 1
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.lrange("celora", 0, -1)


def make_users(operator, role, application_url, worker_url):
    """What ``python -m celora.workers.node.broker_roles ROLE | redis-cli`` does."""
    done = subprocess.run(
        [sys.executable, "-m", "celora.workers.node.broker_roles", role],
        env={**os.environ, "CELORA_BROKER_URL": application_url, "CELORA_WORKER_BROKER_URL": worker_url},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "password" not in done.stdout.lower()
    for line in done.stdout.splitlines():
        operator.execute_command(*shlex.split(line))


def _until(condition, within_s=60):
    deadline = time.monotonic() + within_s
    while True:
        try:
            if condition():
                return
        except redis.exceptions.ConnectionError:
            pass
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
