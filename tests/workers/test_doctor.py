"""The doctor's judgements of what no test machine has: drivers, devices, clocks, disks, old servers, sockets."""

import threading

import pytest

from celora.settings.gpus import GIB
from celora.settings.settings import load_settings
from celora.workers import doctor_broker, doctor_machine, doctor_record, doctor_torch
from celora.workers.broker import find_server
from celora.workers.doctor import Group
from celora.workers.doctor_server import Server, client_of, is_loopback, look_at, without_password
from celora.workers.finding import ok
from celora.workers.gpu import Driver
from celora.workers.services import Service

OLD, NEW = Driver(version="535.1", cuda=(12, 2)), Driver(version="580.65", cuda=(13, 0))


@pytest.mark.parametrize(
    ("cuda", "usable", "driver", "level", "words"),
    [
        ("12.8", True, NEW, "ok", "the driver supports up to 13.0"),
        ("12.8", True, OLD, "warn", "compiled late"),
        ("13.0", True, OLD, "fail", "needs CUDA 13.0; driver 535.1 supports up to 12.2"),
        ("12.1", False, OLD, "fail", "can't use the GPU"),
        (None, False, NEW, "fail", "was built for the CPU"),
        ("12.8", False, None, "ok", "there is no device"),
        (None, False, None, "ok", "torch 2.13.0"),
    ],
)
def test_torchs_cuda_is_compared_with_the_drivers(cuda, usable, driver, level, words):
    found = doctor_torch.torch({"version": "2.13.0", "cuda": cuda, "cuda_usable": usable, "said": ""}, "", driver)
    assert (found.level, words in found.found) == (level, True), found
    assert bool(found.fix) == (level != "ok")


def test_a_torch_that_does_not_load_is_told_by_its_last_words():
    found = doctor_torch.torch(None, "ImportError: libcudart.so.13", None)
    assert (found.level, "libcudart" in found.found) == ("fail", True)


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"device": "cpu", "dtype": "float32", "cpu_bf16": False}, "ok", "25 times slower"),
        ({"device": "cpu", "dtype": "bfloat16", "cpu_bf16": True}, "ok", "computes in bf16"),
        ({"device": "cuda", "dtype": "bfloat16", "capability": "9.0", "built_for": ["sm_90"]}, "ok", "from 8.0 up"),
        ({"device": "cuda", "dtype": "float16", "capability": "7.5", "built_for": ["sm_75"]}, "ok", "only from 8.0 up"),
        ({"device": "cuda", "dtype": "float16", "capability": "7.0", "built_for": ["sm_75"]}, "warn", "not built for"),
    ],
)  # fmt: skip
def test_the_compute_dtype_is_told_with_its_reason(facts, level, words):
    found = doctor_torch.dtype({"name": "a device", **facts}, "")
    assert (found.level, facts["dtype"] in found.found or level == "warn", words in found.found) == (level, True, True)


@pytest.mark.parametrize(("error", "level"), [(0.092, "ok"), (0.0, "fail"), (0.6, "fail")])
def test_nf4_must_cost_what_nf4_costs(error, level):
    assert doctor_torch.nf4({"error": error, "device": "cuda", "version": "0.50.2"}, "").level == level


@pytest.mark.parametrize(
    ("ahead_s", "doubt_s", "level", "words"),
    [
        (0.3, 0.01, "ok", "0.30 s"),
        (3.0, 2.5, "ok", "± 2.50"),
        (30, 0.1, "warn", "30 s behind"),
        (-3600, 0.1, "fail", "3600 s ahead of"),
    ],
)
def test_a_clock_is_judged_by_what_is_certain(ahead_s, doubt_s, level, words):
    found = doctor_record.skew(ahead_s, doubt_s)
    assert (found.level, words in found.found) == (level, True)


@pytest.mark.parametrize(("free", "level"), [(21, "ok"), (19, "warn"), (4, "fail")])
def test_a_disk_is_judged_by_what_is_free(free, level):
    assert doctor_machine.room("the artifacts", free * GIB, 100 * GIB, 5 * GIB).level == level


@pytest.mark.parametrize(("limit", "level"), [(256, "warn"), (1024, "ok"), (-1, "ok")])
def test_a_limit_of_open_files(limit, level):
    assert doctor_machine.open_files(limit).level == level


def server(**changes):
    info = {"redis_version": "7.2.4", "aof_enabled": 1, "maxmemory_policy": "noeviction", "maxmemory": 0}
    fields = {"shown": "redis://there", "host": "there", "socket": "", "open": False, "weak": "", "save": ""}
    given = {name: value for name, value in changes.items() if name in fields}
    return Server(info=info | {k: v for k, v in changes.items() if k not in fields}, **{**fields, **given})


@pytest.mark.parametrize(
    ("judge", "changes", "level"),
    [
        (doctor_broker.version, {"redis_version": "6.0.20"}, "fail"),
        (doctor_broker.version, {"redis_version": "6.2.0"}, "ok"),
        (doctor_broker.persistence, {"aof_last_write_status": "err"}, "fail"),
        (doctor_broker.persistence, {"aof_enabled": 0, "save": None}, "warn"),
        (doctor_broker.eviction, {"maxmemory": 100, "used_memory": 95}, "warn"),
        (doctor_broker.access, {"open": True}, "fail"),
        (doctor_broker.access, {"open": True, "host": "::1"}, "warn"),
        (doctor_broker.access, {"weak": "has a password of fewer than 12 letters"}, "warn"),
        (doctor_broker.access, {"open": True, "host": "", "socket": "/run/valkey.sock"}, "ok"),
    ],
)
def test_a_broker_is_judged_by_what_it_says(judge, changes, level):
    found = judge(server(**changes))
    assert (found.level, bool(found.fix)) == (level, level != "ok")


def test_a_broker_behind_a_unix_socket_is_reached_by_kombus_url(tmp_path):
    socket = tmp_path / "broker.sock"
    command = [find_server(), "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    service = Service(name="valkey", command=command, environment={}, log=tmp_path / "log")
    service.start(tmp_path)
    try:
        deadline = threading.Event()
        while not socket.exists() and service.alive():
            deadline.wait(0.02)
        found = look_at(f"redis+socket://{socket}?virtual_host=2")
        assert (found.socket, found.local, found.open) == (str(socket), True, True)
        assert client_of(f"redis+socket://{socket}?virtual_host=2").connection_pool.connection_kwargs["db"] == 2
    finally:
        service.end()


def test_addresses():
    assert [is_loopback(host) for host in ("localhost", "127.0.0.9", "[::1]", "10.0.0.1", "box")] == [True] * 3 + [
        False
    ] * 2
    assert without_password("redis://me:se/cret@host:1/0") == "redis://host:1/0"


def test_a_broker_of_another_kind_is_not_called_healthy(home):
    (found,) = doctor_broker.broker(load_settings(broker_url="amqp://guest:guest@localhost//"))
    assert (found.level, "amqp" in found.found) == ("warn", True)


def test_what_was_found_before_a_group_got_stuck_counts():
    free = threading.Event()

    def look():
        yield ok("first", "seen")
        free.wait(30)

    findings = Group("slow", look, within_s=0.2).findings()
    free.set()
    assert [(finding.check, finding.level) for finding in findings] == [("first", "ok"), ("slow", "fail")]
    assert "no answer within" in findings[1].found
