"""Workers and datasets that register."""

import pytest

from celora.models.tables import Worker

FACTS = {"host": "here", "kind": "gpu", "pid": 1, "queues": ["gpu.cpu"]}


@pytest.fixture
def worker(record):
    def found(name="cpu-0@here"):
        with record.database.session() as session:
            return session.get(Worker, name)

    return found


def test_a_worker_comes_is_seen_and_goes(record, worker):
    assert not record.seen("cpu-0@here")
    record.register("cpu-0@here", **FACTS)
    first = worker().last_seen_at
    assert record.seen("cpu-0@here")
    assert worker().last_seen_at > first
    assert record.gone("cpu-0@here")
    assert worker().status == "offline"
    assert not record.gone("nobody")


def test_a_worker_that_comes_again_is_the_same_row(record, worker):
    record.register("cpu-0@here", **FACTS)
    record.gone("cpu-0@here")
    record.register("cpu-0@here", **{**FACTS, "pid": 2})
    assert (worker().status, worker().pid) == ("online", 2)


def test_a_draining_worker_drains_on_while_it_is_seen(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.drain("cpu-0@here")
    record.seen("cpu-0@here")
    assert worker().status == "draining"


def test_silent_workers_are_marked_and_come_back_with_their_next_sign(record, worker):
    record.register("cpu-0@here", **FACTS)
    assert record.silence(60) == []
    assert record.silence(-1) == ["cpu-0@here"]
    assert record.silence(-1) == []
    assert worker().status == "offline"
    record.seen("cpu-0@here")
    assert worker().status == "online"


def test_the_same_content_under_a_name_is_one_version(record):
    def version(digit, name="faq"):
        row = record.register_dataset(tenant="acme", name=name, sha256=digit * 64, uri="u", size_bytes=1, rows=2)
        return row.version

    assert [version("a"), version("b"), version("a"), version("c")] == [1, 2, 1, 3]
    assert version("b", name="other") == 1
