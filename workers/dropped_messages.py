"""Keeps a short list of dropped messages in the broker, counts them, and remembers which messages kill workers.

A message is *in hand* from its delivery to a worker until it is acknowledged. When a worker starts, it counts one death
for each message that its predecessor of the same name had in hand when it died. A message that the record can send
again is dropped after one death. A submission exists in its message only, so it is dropped after three deaths: workers
also die for other reasons.
"""

import json
import logging
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import RedisError

from ..settings.redaction import redactor

logger = logging.getLogger(__name__)

DROPPED, COUNTS = "celora.dropped", "celora.dropped_counts"
IN_HAND, DEATHS = "celora.in_hand", "celora.deaths"
MOST_KEPT = 100
"""Length of the list of dropped messages."""
REMEMBERED_S = 7 * 86400
"""Seconds for which deaths are kept after the last one."""
MOST_LETTERS = 200
DIED = "died with it in hand"
"""End of the fault of a message that killed a worker."""
MOST_DEATHS = {"celora.finetune": 3}
"""Deaths after which a message of this task is dropped; a message of any other task is dropped after its first."""


@dataclass(frozen=True, kw_only=True)
class DroppedMessage:
    """A message that was dropped.

    Attributes:
        at: Time of the drop, UTC, ISO 8601.
        queue: The queue that held the message.
        worker: The node name of the worker that dropped the message.
        fault: The reason in words; it holds no value of the message.
        task: The name of its task, as far as the message has one.
        message_id: Its id, as far as the message has one.
    """

    at: str
    queue: str
    worker: str
    fault: str
    task: str = ""
    message_id: str = ""

    @property
    def deadly(self) -> bool:
        """Return whether the message was dropped because a worker died with it in hand."""
        return self.fault.endswith(DIED)


class DroppedMessages:
    """Keeps the dropped messages of one broker.

    Args:
        client: A Redis client of the broker.
        worker: The node name of this worker.
        pid: Id of the worker's main process; this process unless given.
    """

    def __init__(self, client: Any, worker: str = "", pid: int | None = None) -> None:
        self._client, self._worker, self._pid = client, worker, pid or os.getpid()

    def add(self, queue: str, fault: str, raw: object = None) -> None:
        """Log one dropped message, add it to the list and count it; while the broker is away it is logged only."""
        task, message_id = _names(raw)
        entry = DroppedMessage(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            queue=queue,
            worker=self._worker,
            fault=_short(fault),
            task=task,
            message_id=message_id,
        )
        logger.error("a message in the queue %s is dropped: %s (task %s, id %s)", queue, entry.fault, task, message_id)
        with _best_effort("a dropped message is not counted"):
            pipe = self._client.pipeline()
            pipe.lpush(DROPPED, json.dumps(asdict(entry)))
            pipe.ltrim(DROPPED, 0, MOST_KEPT - 1)
            pipe.hincrby(COUNTS, queue, 1)
            pipe.execute()

    def recent(self) -> list[DroppedMessage]:
        """Return the list, the newest message first; entries that celora did not write are left out."""
        found: list[DroppedMessage] = []
        for line in self._client.lrange(DROPPED, 0, MOST_KEPT - 1):
            try:
                found.append(DroppedMessage(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of messages dropped since the broker's data began, by queue."""
        return {_text(queue): int(count) for queue, count in self._client.hgetall(COUNTS).items()}

    def take_in_hand(self, tag: str, queue: str, raw: object) -> None:
        """Record that this process holds a message, until ``release`` is called with its tag."""
        task, message_id = _names(raw)
        facts = {"worker": self._worker, "pid": self._pid, "queue": queue, "task": task, "id": message_id}
        with _best_effort("a message in hand is not remembered"):
            self._client.hset(IN_HAND, tag, json.dumps(facts))

    def release(self, tag: str) -> None:
        """Remove the mark of a message that was acknowledged, rejected or returned."""
        with _best_effort("a message in hand is not forgotten"):
            self._client.hdel(IN_HAND, tag)

    def release_own(self) -> None:
        """Remove the marks of all messages that this process has in hand, because it shuts down in order."""
        with _best_effort("messages in hand are not forgotten"):
            tags = [tag for tag, facts in self._in_hand() if facts.get("pid") == self._pid]
            if tags:
                self._client.hdel(IN_HAND, *tags)

    def count_deaths(self) -> list[str]:
        """Count a death for each message that a predecessor of this worker's name had in hand; return their ids."""
        found: list[str] = []
        with _best_effort("the messages of a dead worker are not counted"):
            for tag, facts in self._in_hand():
                if facts.get("pid") == self._pid:
                    continue
                pipe = self._client.pipeline()
                pipe.hdel(IN_HAND, tag)
                pipe.hincrby(DEATHS, tag, 1)
                pipe.expire(DEATHS, REMEMBERED_S)
                pipe.execute()
                found.append(str(facts.get("id") or tag))
        return found

    def killed(self, tag: str, raw: object) -> int:
        """Return the number of workers that died with a message in hand if it must be dropped for that; else 0."""
        deaths = 0
        with _best_effort("deaths by a message are not known"):
            deaths = int(self._client.hget(DEATHS, tag) or 0)
        return deaths if deaths >= MOST_DEATHS.get(_names(raw)[0], 1) else 0

    def _in_hand(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for tag, line in self._client.hgetall(IN_HAND).items():
            try:
                facts: Any = json.loads(line)
            except ValueError:
                continue
            if isinstance(facts, dict) and facts.get("worker") == self._worker:  # pyright: ignore[reportUnknownMemberType]
                yield _text(tag), facts


@contextmanager
def _best_effort(what: str) -> Generator[None]:
    began = time.monotonic()
    try:
        yield
    except (RedisError, OSError) as error:
        logger.info("%s: the broker did not answer within %.1f s (%s)", what, time.monotonic() - began, error)


def _names(raw: object) -> tuple[str, str]:
    headers: Any = raw.get("headers") if isinstance(raw, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(headers, dict):
        return "", ""
    named: list[str] = []
    for name in ("task", "id"):
        value: object = headers.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        named.append(_short(value) if isinstance(value, str) else "")
    return named[0], named[1]


def _short(text: str) -> str:
    return redactor().text(text.encode(errors="replace").decode()[:MOST_LETTERS]).replace("\n", " ")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
