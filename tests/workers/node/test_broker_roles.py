"""The users of a real Valkey: an application sends and reads results, and only a worker reads celora's queues."""

from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import AuthenticationError

from celora.workers.node import broker_roles, embedded_broker
from celora.workers.node.embedded_broker import EmbeddedBroker

OTHER_PRIORITY = "celora\x06\x163"
OURS = ("celora", OTHER_PRIORITY, "celora.unacked", "celora.dropped", "prep", "prep\x06\x169", "gpu.cpu", "gpu.h100")
THEIRS = ("celery", "celora-shop", "celorax", "celor", "c", "prepare", "pre", "gpu", "gpus", "gp-x", "shop", "unacked",
          "_kombu.binding.shop", "celery-task-meta-1", "é")  # fmt: skip
STOPS = ("FLUSHALL", "FLUSHDB", "SHUTDOWN", "KEYS *", "CONFIG SET save x", "MONITOR",
         "CLIENT LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "ACL LIST", "ACL SETUSER x on", "DEBUG SLEEP 0",
         "SWAPDB 0 1", "FUNCTION FLUSH", "SCRIPT FLUSH", "REPLICAOF h 1", "MIGRATE h 1 k 0 1", "SORT celora",
         "MODULE LIST", "SLOWLOG GET", "SAVE", "FAILOVER")  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def may(server):
    """Asks the server whether a user may run a command."""
    with redis.Redis.from_url(server.operator_url, decode_responses=True) as client:
        yield lambda user, *words: client.execute_command("ACL", "DRYRUN", user, *words) == "OK"


@pytest.mark.parametrize("key", OURS)
def test_an_application_neither_reads_nor_deletes_what_is_celoras(may, key):
    for command in (["LRANGE", key, "0", "-1"], ["RPOP", key], ["BRPOP", key, "1"], ["DEL", key],
                    ["LTRIM", key, "1", "0"], ["GET", key], ["DUMP", key], ["EXPIRE", key, "1"],
                    ["RENAME", key, "mine"], ["COPY", key, "mine"],
                    ["LMOVE", key, "mine", "LEFT", "LEFT"], ["RPOPLPUSH", key, "mine"], ["SET", key, "x"],
                    ["RESTORE", key, "0", "x"], ["LINSERT", key, "BEFORE", "a", "b"], ["LSET", key, "0", "x"],
                    ["RPUSH", key, "x"], ["HGETALL", key], ["HSET", key, "a", "b"], ["UNLINK", key], ["MOVE", key, "1"],
                    ["EVAL", "return redis.call('LRANGE',KEYS[1],0,-1)", "1", key]):  # fmt: skip
        assert not may(broker_roles.APPLICATION, *command), command


def test_a_script_does_not_reach_further_than_its_user(server):
    with redis.Redis.from_url(server.url) as client, pytest.raises(redis.exceptions.ResponseError, match="permission"):
        client.eval("return redis.call('LRANGE', 'celora', 0, -1)", 0)


def test_an_application_sends_to_celora_and_to_no_queue_of_a_stage(may):
    for key in ("celora", OTHER_PRIORITY):
        assert may(broker_roles.APPLICATION, "LPUSH", key, "x")
        assert may(broker_roles.APPLICATION, "LLEN", key)
    for key in ("prep", "prep\x06\x163", "gpu.cpu", "gpu.anything", "celora.unacked", "celora.in_hand"):
        assert not may(broker_roles.APPLICATION, "LPUSH", key, "x"), key


@pytest.mark.parametrize("key", THEIRS)
def test_an_application_has_every_key_that_is_not_celoras(may, key):
    for command in (["LPUSH", key, "x"], ["BRPOP", key, "1"], ["DEL", key], ["SET", key, "x"], ["HSET", key, "a", "b"],
                    ["ZADD", key, "1", "a"], ["EXPIRE", key, "1"], ["SUBSCRIBE", key]):  # fmt: skip
        assert may(broker_roles.APPLICATION, *command), command


@pytest.mark.parametrize("user", [broker_roles.APPLICATION, broker_roles.WORKER])
def test_neither_role_stops_the_server_or_looks_into_it(may, user):
    assert [command for command in STOPS if may(user, *command.split())] == []


def test_a_worker_may_ask_for_the_rule_of_snapshots_and_an_application_may_not(may):
    assert may(broker_roles.WORKER, "CONFIG", "GET", "save")
    assert not may(broker_roles.APPLICATION, "CONFIG", "GET", "save")


def test_a_worker_reads_its_queues_and_only_sends_to_those_of_callers(may):
    for key in (*OURS, "_kombu.binding.celora", "celery-task-meta-1", "celery@here.celery.pidbox",
                "x.reply.celery.pidbox", "x.reply.celery.pidbox\x06\x163"):  # fmt: skip
        assert may(broker_roles.WORKER, "BRPOP", key, "1"), key
    assert may(broker_roles.WORKER, "LPUSH", "shop", "x")
    for command in (["BRPOP", "shop", "1"], ["LRANGE", "shop", "0", "-1"], ["DEL", "shop"], ["GET", "session:1"]):
        assert not may(broker_roles.WORKER, *command), command


def test_a_stranger_without_a_password_has_no_right(server):
    with redis.Redis.from_url(server.address) as client, pytest.raises(AuthenticationError):
        client.llen("celora")
    assert {urlsplit(url).username for url in (server.worker_url, server.operator_url)} == {
        broker_roles.WORKER, broker_roles.OPERATOR,
    }  # fmt: skip


def test_celery_sends_a_job_as_an_application_and_cannot_send_to_a_stage(server):
    with Celery("shop", broker=server.url, backend=server.url) as app:
        app.conf.update(broker_transport_options={"max_retries": 0}, task_default_queue="shop")
        sent = app.send_task("celora.finetune", kwargs={}, queue="celora")
        assert sent.state == "PENDING"
        app.send_task("celora.finetune", queue="celora", priority=3)
        app.send_task("shop.own")
        for queue in ("prep", "gpu.cpu"):
            with pytest.raises(OperationalError, match="No permissions"):
                app.send_task("celora.train", args=["id", 1], queue=queue, retry=False)


def test_a_server_without_selectors_keeps_one_user(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_broker, "version_of", lambda _: (6, 2))
    one = EmbeddedBroker(tmp_path / "broker")
    one.start()
    try:
        assert (one.worker_url, one.operator_url) == ("", one.url)
        with redis.Redis.from_url(one.url) as client:
            assert client.config_get("dir")
    finally:
        one.stop()


def test_the_complement_of_words_is_written_prefix_by_prefix():
    assert broker_roles.outside({"ab": ""}) == ["~[^a]*", "~a", "~a[^b]*"]
    assert broker_roles.outside({"ab": "x*", "ac": ""}) == ["~[^a]*", "~a", "~a[^bc]*", "~abx*"]
