"""A worker stops reading its work queues and reads them again; the reader is kombu's own, on a broker in memory."""

import threading

import pytest
from celery import Celery

from celora.workers.lifecycle import consumer_watchdog
from celora.workers.lifecycle.cordon import Cordon, here


class Loop:
    """Celery's consumer as far as a cordon uses it: its app, its reader, and a loop that runs what it is given."""

    def __init__(self, names):
        self.app = Celery("cordon", broker="memory://")
        self.app.conf.task_create_missing_queues = True
        self.app.amqp.queues.select(names)
        self.connection = self.app.connection()
        self.heard = []
        self.connect()

    def connect(self):
        self.task_consumer = self.app.amqp.TaskConsumer(self.connection.channel(), callbacks=[self.hear])
        self.task_consumer.consume()

    def call_soon(self, function, *arguments):
        function(*arguments)

    def hear(self, body, message):
        self.heard.append(message.headers["task"])
        message.ack()

    def reads(self):
        return sorted(queue.name for queue in self.task_consumer.queues)


@pytest.fixture
def loop():
    made = Loop(["celora", "gpu.cpu", "prep"])
    yield made
    made.connection.close()
    made.app.close()


@pytest.fixture
def cordon(loop):
    one = Cordon()
    one.attach(loop, ["celora", "gpu.cpu", "prep"])
    return one


def test_a_worker_with_an_obstacle_reads_the_bookkeeping_alone_and_reads_on_afterwards(loop, cordon):
    cordon.apply("cordoned: note")
    assert cordon.paused
    assert loop.reads() == ["celora"]
    cordon.apply("cordoned: note")
    cordon.apply("unhealthy: now for another reason")
    assert loop.reads() == ["celora"]
    cordon.apply("")
    assert not cordon.paused
    assert loop.reads() == ["celora", "gpu.cpu", "prep"]


def test_what_a_worker_reads_after_a_reconnect_is_what_it_read_before(loop, cordon):
    cordon.apply("cordoned")
    loop.connect()
    assert loop.reads() == ["celora"]
    cordon.apply("")
    loop.connect()
    assert loop.reads() == ["celora", "gpu.cpu", "prep"]


def test_an_obstacle_that_comes_and_goes_while_the_broker_is_away_is_applied_at_the_reconnect(loop, cordon):
    loop.task_consumer = None
    cordon.apply("cordoned")
    loop.connect()
    assert loop.reads() == ["celora"]
    loop.task_consumer = None
    cordon.apply("")
    loop.connect()
    assert loop.reads() == ["celora", "gpu.cpu", "prep"]


def test_messages_wait_for_the_others_and_are_read_once_the_obstacle_is_gone(loop, cordon):
    cordon.apply("cordoned")
    loop.app.send_task("waits", queue="gpu.cpu")
    loop.app.send_task("book", queue="celora")
    while not loop.heard:
        loop.connection.drain_events(timeout=60)
    with pytest.raises(TimeoutError):
        loop.connection.drain_events(timeout=0.2)
    assert loop.heard == ["book"]
    cordon.apply("")
    loop.connection.drain_events(timeout=60)
    assert loop.heard == ["book", "waits"]


def test_a_worker_that_is_not_ready_yet_only_remembers_the_obstacle():
    cordon = Cordon()
    cordon.apply("cordoned")
    assert cordon.paused


def test_a_wake_ends_the_wait_between_heartbeats():
    cordon, stop = Cordon(), threading.Event()
    cordon.wake()
    assert cordon.wait(60, stop) is False
    stop.set()
    cordon.wake()
    assert cordon.wait(60, stop) is True


def test_a_worker_that_is_paused_is_not_taken_for_deaf():
    assert not consumer_watchdog._busy()
    here.apply("cordoned")
    try:
        assert consumer_watchdog._busy()
    finally:
        here.apply("")
    assert not consumer_watchdog._busy()
