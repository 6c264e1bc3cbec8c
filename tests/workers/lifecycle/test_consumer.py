"""The broken connection of a worker is closed, wherever it broke."""

import pytest
from chaos.servers import Valkey
from kombu import Connection, Exchange, Queue

from celora.workers.celery import app
from celora.workers.lifecycle.consumer import close_broken


@pytest.fixture
def broken(tmp_path):
    """A worker's connection whose broker died: one channel waits for a message, with another one not acknowledged, and
    one hears broadcasts."""
    with Valkey(tmp_path / "valkey") as server:
        connection = Connection(server.url, transport_options={"socket_connect_timeout": 1})
        channel = connection.default_channel
        queue = connection.SimpleQueue("work", channel=channel)
        queue.put("one")
        queue.get(timeout=60)
        channel.basic_consume("work", no_ack=False, callback=lambda _message: None, consumer_tag="reader")
        broadcasts = connection.channel()
        heard = Queue("heard", Exchange("broadcasts", type="fanout"), auto_delete=True)(broadcasts)
        heard.declare()
        broadcasts.basic_consume("heard", no_ack=True, callback=lambda _message: None, consumer_tag="hearer")
        channel._brpop_start()
        assert channel._in_poll
        assert channel.qos._delivered
    return connection


def test_a_connection_that_broke_while_it_was_read_is_closed(broken):
    channel = broken.default_channel
    broken.collect(socket_timeout=1)
    close_broken(broken)
    assert channel.closed
    assert broken.connected is False


def test_workers_use_this_consumer():
    assert app.conf.worker_consumer == "celora.workers.lifecycle.consumer:Consumer"
