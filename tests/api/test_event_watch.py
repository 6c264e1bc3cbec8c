"""The streams of events get the news of their own job from one reader."""

import asyncio

import pytest
from moved_job import Moved
from waiting import until

from celora.api import event_watch
from celora.api.event_watch import EventWatch
from celora.errors import UnavailableError
from celora.models.events import record_event
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec

HANG_S = 120
"""A wait that is never over unless something is broken."""


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(event_watch, "EVERY_S", 0.01)


def submit(record, job_id):
    with record.transaction(Scope.everything) as session:
        accept.submit(session, job_id=job_id, spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))


def say(record, job_id, message="news"):
    with record.transaction(Scope.everything) as session:
        record_event(session, job_id, 1, "info", "note", message, {})


async def taken(watcher, count):
    """The first messages that a stream gets."""
    found = []
    while len(found) < count:
        lines, _ = await watcher.take(HANG_S)
        found += [line.message for line in lines]
    return found


def run(steps):
    asyncio.run(asyncio.wait_for(steps, HANG_S))


def test_each_stream_gets_the_news_of_its_job_after_its_own_last_event(record):
    submit(record, "one")
    submit(record, "two")
    say(record, "one", "first")

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 0) as whole, watch.watch("one", 2) as rest, watch.watch("two", 2) as other:
            await asyncio.to_thread(say, record, "one", "second")
            assert (await taken(whole, 3))[1:] == ["first", "second"]
            assert await taken(rest, 2) == ["first", "second"]
            await asyncio.to_thread(say, record, "two", "for two")
            assert await taken(other, 1) == ["for two"]
            assert await whole.take(0.05) == ([], False)
        await watch._task  # it ends with the last stream
        await watch.close()

    run(steps())


def test_a_stream_learns_of_the_end_together_with_its_last_event(record):
    submit(record, "one")

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 1) as watcher:
            await asyncio.to_thread(Moved(record, "one").complete)
            found, ended = [], False
            while not ended:
                lines, ended = await watcher.take(HANG_S)
                found += lines
        assert found[-1].kind == "completed"
        await watch.close()

    run(steps())


def test_a_stream_that_reads_too_slowly_is_left_out_until_it_has_sent_what_it_has(record, monkeypatch):
    monkeypatch.setattr(event_watch, "MOST_HELD", 1)
    submit(record, "one")

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 0) as slow:
            await asyncio.to_thread(until, lambda: slow.is_full)
            await asyncio.to_thread(say, record, "one", "later")
            with watch.watch("one", 1) as quick:
                assert await taken(quick, 1) == ["later"]
            lines, _ = await slow.take(HANG_S)
            assert [line.kind for line in lines] == ["submitted"]
            assert await taken(slow, 1) == ["later"]
        await watch.close()

    run(steps())


@pytest.mark.parametrize("error", [UnavailableError("the record is away."), RuntimeError("a fault")])
def test_the_streams_go_on_after_a_read_that_failed(record, monkeypatch, error):
    submit(record, "one")
    read, failed = event_watch.read_news, []

    def fails_once(after):
        if not failed:
            failed.append(True)
            raise error
        return read(after)

    monkeypatch.setattr(event_watch, "read_news", fails_once)

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 0) as watcher:
            lines, _ = await watcher.take(HANG_S)
            assert [line.kind for line in lines] == ["submitted"]
        await watch.close()

    run(steps())
