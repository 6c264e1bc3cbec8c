"""Malformed messages and remote commands, sent to an installation all the time while something else is measured.

with HostileTraffic(cluster.environment["CELORA_BROKER_URL"], dice) as traffic:
    ...                                    # kill, submit, cancel
traffic.sent                               # how many of each kind
"""

import json
import random
import threading
from collections import Counter

import redis
from celery import Celery
from hostile.kinds.control_commands import MALFORMED, REFUSED
from hostile.kinds.messages import CALLBACKS, LINES, SPEC, mutated
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from worker_alone import message

QUEUES = ("celora", "prep", "gpu.cpu")
OBEYED = "cancel_consumer"
"""The chaos tests' launcher lets workers obey this one command, to make them deaf."""
COMMANDS = {
    name: arguments for name, arguments in {**REFUSED, **MALFORMED}.items() if " " not in name and name != OBEYED
}


class HostileTraffic:
    """A thread that sends to the broker until the end of the block.

    Args:
        broker_url: With the right to send to every queue.
        dice: Chooses messages, commands and pauses.
        pause_s: The longest time between two.
    """

    def __init__(self, broker_url, dice, pause_s=0.2):
        self._url, self._dice, self._pause_s = broker_url, random.Random(dice.random()), pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hostile traffic", daemon=True)
        self.sent = Counter()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        with redis.Redis.from_url(self._url) as client, Celery("stranger", broker=self._url) as app:
            while not self._over.wait(self._dice.uniform(0, self._pause_s)):
                try:
                    self._send(client, app)
                except (RedisError, OperationalError, OSError):
                    self.sent["broker away"] += 1

    def _send(self, client, app):
        kind = self._dice.choices(("mutation", "line", "callback", "command"), weights=(6, 2, 1, 2))[0]
        queue = self._dice.choice(QUEUES)
        if kind == "mutation":
            client.lpush(queue, json.dumps(mutated(self._dice)))
        elif kind == "line":
            client.lpush(queue, self._dice.choice(list(LINES.values())))
        elif kind == "callback":
            following = {
                self._dice.choice(("callbacks", "errbacks", "chain")): self._dice.choice(list(CALLBACKS.values()))
            }
            client.lpush("celora", json.dumps(message("celora.finetune", embed=following, **SPEC)))
        else:
            name = self._dice.choice(list(COMMANDS))
            app.control.broadcast(name, arguments=COMMANDS[name])
        self.sent[kind] += 1
