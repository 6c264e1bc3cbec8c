import json
import os

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celora.workers import dropped_messages
from celora.workers.dropped_messages import DroppedMessages

TICK = {"headers": {"task": "celora.tick", "id": "t1"}}
SUBMISSION = {"headers": {"task": "celora.finetune", "id": "f1"}}


@pytest.fixture
def client(valkey):
    one = redis.Redis.from_url(valkey)
    yield one
    one.close()


def die(client, tag, raw):
    """A worker has a message in hand and dies, and another process starts under its name."""
    DroppedMessages(client, "control@here", pid=1).take_in_hand(tag, "celora", raw)
    return DroppedMessages(client, "control@here").count_deaths()


def test_a_message_that_the_record_sends_again_is_dropped_after_one_death(client):
    dropped = DroppedMessages(client, "control@here")
    assert dropped.killed("a", TICK) == 0
    assert die(client, "a", TICK) == ["t1"]
    assert dropped.killed("a", TICK) == 1


def test_a_submission_which_only_the_message_holds_is_dropped_after_three(client):
    dropped = DroppedMessages(client, "control@here")
    for deaths in (0, 0, 3):
        die(client, "b", SUBMISSION)
        assert dropped.killed("b", SUBMISSION) == deaths


def test_what_another_worker_has_in_hand_is_no_death_of_ours(client):
    DroppedMessages(client, "prep@here").take_in_hand("c", "prep", TICK)
    assert DroppedMessages(client, "control@here").count_deaths() == []


def test_a_worker_forgets_what_it_acknowledged_and_what_it_had_when_it_left(client):
    worker = DroppedMessages(client, "control@here")
    for tag in ("a", "b"):
        worker.take_in_hand(tag, "celora", TICK)
    worker.release("a")
    assert client.hkeys(dropped_messages.IN_HAND) == [b"b"]
    assert json.loads(client.hget(dropped_messages.IN_HAND, "b"))["pid"] == os.getpid()
    worker.release_own()
    assert client.hlen(dropped_messages.IN_HAND) == 0


def test_an_entry_holds_names_only_and_a_strange_line_of_the_list_is_left_out(client):
    worker = DroppedMessages(client, "control@here")
    worker.add("celora", "headers: no\nobject", {"headers": {"task": ["secret"], "id": "x" * 999}, "body": "secret"})
    client.lpush(dropped_messages.DROPPED, b"5", b"{", b'{"a": 1}')
    (entry,) = worker.recent()
    assert (entry.fault, entry.task, len(entry.message_id)) == ("headers: no object", "", dropped_messages.MOST_LETTERS)
    assert worker.counts() == {"celora": 1}


def test_a_broker_that_is_away_raises_nothing():
    away = redis.Redis(port=1, socket_connect_timeout=0.2, retry=Retry(NoBackoff(), 0))
    worker = DroppedMessages(away, "control@here")
    worker.add("celora", "no JSON")
    worker.take_in_hand("a", "celora", TICK)
    worker.release("a")
    worker.release_own()
    assert worker.count_deaths() == []
    assert worker.killed("a", TICK) == 0
