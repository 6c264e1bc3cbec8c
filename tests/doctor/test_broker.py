"""Judgements about a broker, by tables of what a server says: old ones, evicting ones, open ones."""

import pytest

from celora.doctor import broker
from celora.doctor.server import Server
from celora.settings.settings import load_settings
from celora.workers.dropped_messages import DroppedMessage


def server(**changes):
    info = {"redis_version": "7.2.4", "aof_enabled": 1, "maxmemory_policy": "noeviction", "maxmemory": 0}
    fields = {"shown": "redis://there", "host": "there", "socket": "", "open": False, "weak": "", "save": ""}
    given = {name: value for name, value in changes.items() if name in fields}
    return Server(info=info | {k: v for k, v in changes.items() if k not in fields}, **{**fields, **given})


@pytest.mark.parametrize(
    ("judge", "changes", "level"),
    [
        (broker.version, {"redis_version": "6.0.20"}, "fail"),
        (broker.version, {"redis_version": "6.2.0"}, "ok"),
        (broker.version, {"redis_version": "7.2.4", "valkey_version": "8.1.0"}, "ok"),
        (broker.persistence, {}, "ok"),
        (broker.persistence, {"rdb_last_bgsave_status": "err"}, "fail"),
        (broker.persistence, {"aof_last_write_status": "err"}, "fail"),
        (broker.persistence, {"aof_enabled": 0, "save": None}, "warn"),
        (broker.persistence, {"aof_enabled": 0, "save": "3600 1"}, "warn"),
        (broker.persistence, {"aof_enabled": 0, "save": ""}, "fail"),
        (broker.eviction, {"maxmemory_policy": "allkeys-lru"}, "warn"),
        (broker.eviction, {"maxmemory_policy": "allkeys-lru", "maxmemory": 100}, "fail"),
        (broker.eviction, {"maxmemory": 100, "used_memory": 90}, "ok"),
        (broker.eviction, {"maxmemory": 100, "used_memory": 95}, "warn"),
        (broker.access, {}, "ok"),
        (broker.access, {"open": True}, "fail"),
        (broker.access, {"open": True, "host": "::1"}, "warn"),
        (broker.access, {"weak": "has a password of fewer than 12 letters"}, "warn"),
        (broker.access, {"open": True, "host": "", "socket": "/run/valkey.sock"}, "ok"),
    ],
)
def test_a_broker_is_judged_by_what_it_says(judge, changes, level):
    found = judge(server(**changes))
    assert (found.level, bool(found.fix)) == (level, level != "ok")


def test_a_broker_of_another_kind_is_not_called_healthy(home):
    (found,) = broker.broker(load_settings(broker_url="amqp://guest:guest@localhost//"))
    assert (found.level, "amqp" in found.found) == ("warn", True)


def test_messages_that_were_dropped_are_told_with_queue_and_fault():
    assert broker.messages([]).level == "ok"
    dropped = DroppedMessage(
        at="2026-11-30T00:00:00+00:00", queue="celora", worker="w", fault="1 worker(s) died with it in hand",
        task="celora.tick", message_id="x-1",
    )  # fmt: skip
    finding = broker.messages([dropped])
    assert finding.level == "warn"
    for word in ("celora", "died with it in hand", "celora.tick", "x-1"):
        assert word in finding.found


def test_a_message_that_killed_a_worker_is_named_before_later_ones_that_are_only_malformed():
    facts = {"at": "2026-11-30T00:00:00+00:00", "worker": "w", "task": "celora.tick"}
    harmless = DroppedMessage(queue="prep", fault="id: Field required", message_id="harmless", **facts)
    deadly = DroppedMessage(queue="celora", fault="1 worker(s) died with it in hand", message_id="deadly", **facts)
    finding = broker.messages([harmless, harmless, deadly, harmless])
    for word in ("4 were dropped", "the last that killed a worker", "queue celora", "id deadly"):
        assert word in finding.found
    assert "harmless" not in finding.found


@pytest.mark.parametrize(
    ("url", "backend", "levels"),
    [
        ("", "", []),
        ("redis://:one@host:6379/0", "", ["ok"]),
        ("redis://:one@host:6379/0", "redis://:two@host:6379", ["ok"]),
        ("redis://:one@host:6379/0", "redis://127.0.0.1:1/0", ["fail"]),
    ],
)
def test_a_result_backend_apart_from_the_broker_is_asked(home, url, backend, levels):
    settings = load_settings(broker_url=url, result_backend=backend)
    assert [found.level for found in broker.result_backend(settings)] == levels


def test_a_broker_that_is_away_is_the_only_finding(home):
    (found,) = broker.broker(load_settings(broker_url="redis://:hidden-word@127.0.0.1:1/0"))
    assert (found.level, "127.0.0.1:1" in found.found, "hidden-word" in found.found) == ("fail", True, False)


def test_an_installation_without_a_broker_is_told_how_to_get_one(home):
    (found,) = broker.broker(load_settings())
    assert (found.level, "celora up" in found.fix) == ("warn", True)
