"""A control worker with a broker and a record of its own, and messages made by hand."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
import redis

from celora.models.database import Database
from celora.workers.node.embedded_broker import EmbeddedBroker

WAIT_S = 200.0


class WorkerAlone:
    """The worker's process and its broker, seen from an attacker who can write to the broker."""

    def __init__(self, home):
        self.home = home
        self.broker = EmbeddedBroker(home / "broker")
        self.broker.start()
        self.client = redis.Redis.from_url(self.broker.operator_url)
        self.database = Database(f"sqlite:///{home}/celora.db")
        self.database.migrate()
        self.process = None
        self.start()

    def start(self):
        environment = {
            **os.environ,
            "CELORA_HOME": str(self.home),
            "CELORA_BROKER_URL": self.broker.url,
            "CELORA_WORKER_BROKER_URL": self.broker.worker_url,
            "CELORA_HEARTBEAT_S": "1",
            "CELORA_VISIBILITY_TIMEOUT_S": "5",
            "CELORA_DEAF_AFTER_S": "20",
        }
        self.log = self.home / "worker.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "celora.workers", "worker", "-Q", "celora", "-n", "control@here",
                 "-c", "1", "--disable-prefetch", "--loglevel", "INFO"],
                env=environment, stdout=log, stderr=log, cwd=self.home, start_new_session=True,
            )  # fmt: skip
        began = self.log.stat().st_size
        self.until(lambda: b"ready." in self.log.read_bytes()[max(0, began - 1) :])
        self.until(self._listens)

    def _listens(self):
        """Whether the worker has subscribed to remote control: a broadcast reaches nobody before."""
        ((_, subscribers),) = self.client.pubsub_numsub("/0.celery.pidbox")
        return subscribers or self.client.pubsub_numpat()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.stop()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.client.close()
        self.database.dispose()
        self.broker.stop()

    def leave(self, within_s=120.0):
        """End the worker in order; a worker that does not end shows the stacks of its threads."""
        self.process.terminate()
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # Celery's own: the stacks of all threads go to the log
            time.sleep(3.0)
            raise AssertionError(f"the worker does not leave: {self.log.read_text()[-6000:]}") from None

    def send(self, line, queue="celora"):
        self.client.lpush(queue, line)

    def alive(self):
        return self.process.poll() is None

    def emptied(self):
        """Whether the worker has taken all messages and has none in hand."""
        return not any(self.client.exists(key) for key in ("celora", "celora.unacked", "celora.in_hand"))

    def in_hand(self):
        """The ids of the messages that the worker holds; its own first tick is one of them for a moment."""
        return [json.loads(facts)["id"] for facts in self.client.hvals("celora.in_hand")]

    def until(self, condition):
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.alive(), self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def dropped(self):
        return [json.loads(line) for line in self.client.lrange("celora.dropped", 0, -1)]


def message(task="celora.tick", *, message_id=None, body=None, headers=None, properties=None, embed=None, **kwargs):
    """A message of Celery's protocol 2 as a dict; ``headers`` and ``properties`` replace single fields."""
    message_id = message_id or str(uuid.uuid4())
    following = embed if embed is not None else {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    content = body if body is not None else [[], kwargs, following]
    return {
        "body": base64.b64encode(json.dumps(content).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": task, "id": message_id, "shadow": None, "eta": None, "expires": None, "group": None,
            "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": message_id, "parent_id": None,
            "argsrepr": "()", "kwargsrepr": "{}", "origin": "x", "ignore_result": True, "replaced_task_nesting": 0,
            "stamped_headers": None, "stamps": {}, **(headers or {}),
        },
        "properties": {
            "correlation_id": message_id, "reply_to": str(uuid.uuid4()), "delivery_mode": 2, "priority": 0,
            "delivery_info": {"exchange": "", "routing_key": "celora"}, "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()), **(properties or {}),
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def worker_alone(tmp_path_factory):
    one = WorkerAlone(tmp_path_factory.mktemp("home"))
    yield one
    one.stop()
