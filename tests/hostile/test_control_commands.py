"""Remote control commands of somebody who can write to the broker: a worker answers questions and changes nothing."""

import pytest
from celery import Celery
from hostile.attack import hold
from hostile.kinds.control_commands import MALFORMED, REFUSED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stranger(worker_alone):
    app = Celery("stranger", broker=worker_alone.broker.url, backend=worker_alone.broker.url)
    yield app
    app.close()


def answers(stranger, name, arguments):
    replies = stranger.control.broadcast(name, arguments=arguments, reply=True, timeout=60, limit=1)
    return [answer for reply in replies for answer in reply.values()]


@pytest.mark.parametrize("name", REFUSED)
def test_a_command_that_would_change_a_worker_is_refused(stranger, worker_alone, name):
    (answer,) = answers(stranger, name, REFUSED[name])
    assert f"refuses the remote command {name}" in answer["error"]
    assert worker_alone.alive()


@pytest.mark.parametrize("name", MALFORMED)
def test_arguments_of_the_wrong_shape_are_refused(stranger, worker_alone, name):
    command = name.partition(" ")[0]
    (answer,) = answers(stranger, command, MALFORMED[name])
    assert f"refuses the remote command {command}" in answer["error"]
    assert "NOPE" not in answer["error"]
    assert worker_alone.alive()


@pytest.mark.parametrize(
    "envelope",
    [
        {"method": {"a": 1}, "arguments": {}},
        {"method": "ping", "arguments": [1]},
        {"method": "ping", "arguments": {}, "pattern": "(a+)+$", "matcher": "pcre"},
        {"method": "ping", "arguments": {}, "destination": {"a": 1}},
        {"method": "ping", "arguments": {}, "ticket": "t", "reply_to": {"exchange": "celora", "routing_key": "celora"}},
        "no object",
        [],
    ],
    ids=str,
)
def test_a_broadcast_of_the_wrong_shape_is_dropped(stranger, worker_alone, envelope):
    before = len(worker_alone.dropped())
    with stranger.connection_for_write() as connection:
        exchange = stranger.control.mailbox.exchange
        producer = connection.Producer()
        producer.publish(envelope, exchange=exchange.name, declare=[exchange], serializer="json", headers={"clock": 1})
    worker_alone.until(lambda: len(worker_alone.dropped()) > before)
    assert worker_alone.dropped()[0]["queue"] == "remote control"
    assert stranger.control.ping(timeout=60, limit=1)


def test_lines_on_the_broadcast_channel_that_are_no_json_are_dropped(stranger, worker_alone):
    """Sent as one burst, so that the worker has the question in its buffer behind them."""
    pipe = worker_alone.client.pipeline()
    for line in (b"[" * 100_000, b"\xff\xfe", b"5", b"{", b"null") * 3:
        pipe.publish("/0.celery.pidbox", line)
    pipe.execute()
    assert stranger.control.ping(timeout=60, limit=1)
    assert worker_alone.alive()


def test_questions_of_flower_and_of_probes_are_answered_without_a_secret(stranger, worker_alone):
    inspect = stranger.control.inspect(timeout=60, limit=1)
    for answer in (inspect.ping(), inspect.stats(), inspect.active(), inspect.reserved(), inspect.scheduled(),
                   inspect.revoked(), inspect.registered(), inspect.active_queues(), inspect.conf()):  # fmt: skip
        assert list(answer) == ["control@here"]
        assert "error" not in next(iter(answer.values()))
        assert worker_alone.broker.url.split("@")[0].rpartition(":")[2] not in str(answer)
        assert worker_alone.broker.worker_url.split("@")[0].rpartition(":")[2] not in str(answer)


def test_a_revoke_of_a_thousand_ids_takes_one_transaction(stranger, worker_alone):
    (answer,) = answers(stranger, "revoke", {"task_id": [f"nobody-{number}" for number in range(1000)]})
    assert "ok" in answer
    assert "error" not in answer


def test_the_first_sixty_seeded_commands_leave_the_worker_as_it_was(tmp_path):
    hold("control_commands", tmp_path, most=60)
