"""The channel of a worker checks lines before kombu sees them; here with kombu's own consumer on a real Valkey."""

import json

import pytest
import redis
from kombu import Connection, Queue
from kombu.transport import redis as transport
from worker_alone import message

from celora.workers.lifecycle import malformed


@pytest.fixture
def consumer(valkey, monkeypatch):
    """Reads a queue through our channel: the messages that came through, and the client of an attacker."""
    monkeypatch.setattr(transport.Transport, "Channel", transport.Channel)
    malformed.be_tolerant("w@here")
    client = redis.Redis.from_url(valkey)
    with Connection(valkey) as connection:
        taken = []
        reader = connection.Consumer(Queue("celora"), callbacks=[lambda _body, one: taken.append(one)])
        reader.consume()

        def drain(count):
            for _ in range(count):
                connection.drain_events(timeout=60)
            return taken

        yield drain, client
    client.close()


def test_a_malformed_message_is_acknowledged_and_kept_in_a_list_and_the_next_one_is_delivered(consumer):
    drain, client = consumer
    client.lpush("celora", json.dumps(message(headers={"timelimit": "ab"})))
    client.lpush("celora", json.dumps(message()))
    (taken,) = drain(2)
    assert client.hlen("unacked") == 1
    (line,) = client.lrange("celora.dropped", 0, -1)
    entry = json.loads(line)
    assert entry["fault"].startswith("timelimit: ")
    assert (entry["queue"], entry["worker"], entry["task"]) == ("celora", "w@here", "celora.tick")
    assert client.hlen("celora.in_hand") == 1
    taken.ack()
    assert client.hlen("celora.in_hand") == 0


def test_what_a_handler_cannot_take_is_acknowledged_too(valkey, monkeypatch):
    monkeypatch.setattr(transport.Transport, "Channel", transport.Channel)
    malformed.be_tolerant("w@here")

    def breaks(_body, _message):
        raise TypeError

    made = message()
    with Connection(valkey) as connection, redis.Redis.from_url(valkey) as client:
        connection.Consumer(Queue("celora"), callbacks=[breaks]).consume()
        client.lpush("celora", json.dumps(made))
        connection.drain_events(timeout=60)
        assert client.hlen("unacked") == 0
        assert json.loads(client.lindex("celora.dropped", 0))["message_id"] == made["headers"]["id"]


def test_the_list_of_dropped_messages_is_capped(consumer, monkeypatch):
    drain, client = consumer
    monkeypatch.setattr("celora.workers.dropped_messages.MOST_KEPT", 3)
    for _ in range(5):
        client.lpush("celora", b"[" * 100_000)
    drain(5)
    assert client.llen("celora.dropped") == 3
    assert client.hget("celora.dropped_counts", "of this worker") == b"5"
