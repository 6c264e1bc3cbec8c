"""The streams of events get the news of their own job from one reader."""

import asyncio

import pytest
from moved_job import Moved
from waiting import until

from celora.api import event_watch
from celora.api.event_watch import End, EventWatch
from celora.errors import UnavailableError
from celora.models.events import record_event
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Event
from celora.services.tenants import keys

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
        with watch.watch("one", 0, "") as whole, watch.watch("one", 2, "") as rest, watch.watch("two", 2, "") as other:
            await asyncio.to_thread(say, record, "one", "second")
            assert (await taken(whole, 3))[1:] == ["first", "second"]
            assert await taken(rest, 2) == ["first", "second"]
            await asyncio.to_thread(say, record, "two", "for two")
            assert await taken(other, 1) == ["for two"]
            assert await whole.take(0.05) == ([], None)
        await watch._task  # it ends with the last stream
        await watch.close()

    run(steps())


def test_a_stream_learns_of_the_end_together_with_its_last_event(record):
    submit(record, "one")

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 1, "") as watcher:
            await asyncio.to_thread(Moved(record, "one").complete)
            found, end = [], None
            while end is None:
                lines, end = await watcher.take(HANG_S)
                found += lines
        assert (found[-1].kind, end) == ("completed", End.JOB)
        await watch.close()

    run(steps())


def test_a_stream_that_reads_too_slowly_is_left_out_until_it_has_sent_what_it_has(record, monkeypatch):
    monkeypatch.setattr(event_watch, "MOST_HELD", 1)
    submit(record, "one")

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 0, "") as slow:
            await asyncio.to_thread(until, lambda: slow.is_full)
            await asyncio.to_thread(say, record, "one", "later")
            with watch.watch("one", 1, "") as quick:
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
        with watch.watch("one", 0, "") as watcher:
            lines, _ = await watcher.take(HANG_S)
            assert [line.kind for line in lines] == ["submitted"]
        await watch.close()

    run(steps())


def test_a_key_that_ends_takes_its_streams_with_it_and_no_other(record):
    submit(record, "one")
    revoked, other = (keys.create_key("default", scopes=["read"]) for _ in range(2))

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 0, revoked.id) as ends, watch.watch("one", 0, other.id) as stays:
            await taken(stays, 1)
            await asyncio.to_thread(keys.revoke_key, revoked.id)
            await asyncio.to_thread(until, lambda: ends.end is not None)
            assert await ends.take(HANG_S) == ([], End.KEY)
            await asyncio.to_thread(say, record, "one", "later")
            assert await taken(stays, 1) == ["later"]
            assert await ends.take(HANG_S) == ([], End.KEY)
        await watch.close()

    run(steps())


def test_a_stream_without_a_key_ends_with_the_first_key(record):
    submit(record, "one")

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 1, "") as local:
            await asyncio.to_thread(keys.create_key, "default")
            assert await local.take(HANG_S) == ([], End.KEY)
        await watch.close()

    run(steps())


def test_a_row_that_cannot_be_shown_ends_the_streams_of_its_job_alone(record, caplog):
    submit(record, "one")
    submit(record, "two")
    with record.transaction(Scope.everything) as session:
        session.get_one(Event, 1).data = ["no facts"]

    async def steps():
        watch = EventWatch()
        with watch.watch("one", 0, "") as broken, watch.watch("two", 0, "") as sound:
            assert await broken.take(HANG_S) == ([], End.FAULT)
            await taken(sound, 1)
            await asyncio.to_thread(say, record, "two", "later")
            assert await taken(sound, 1) == ["later"]
        await watch.close()

    run(steps())
    assert "events of one cannot be shown" in caplog.text
