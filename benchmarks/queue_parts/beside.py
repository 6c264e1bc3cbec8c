"""Other programs beside a measurement of the queue: two dispatchers at once, and one that submits at full rate."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from celora.models.database import Database
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.services.acceptance import write_job
from celora.services.rounds.dispatch import decide_round, dispatch
from celora.settings.settings import Settings, load_settings

from .rows import TENANTS

ROUNDS = 5
"""Rounds of each of two dispatchers; two suffice for the free slots."""


@dataclass
class Rounds:
    """What one dispatcher did: the jobs that it sent, and the wall time of each decision before a round, seconds."""

    sent: list[str] = field(default_factory=list[str])
    decisions_s: list[float] = field(default_factory=list[float])


def two_dispatchers(database: Database, settings: Settings) -> dict[str, float]:
    """Run rounds in two processes at once until the free slots are taken."""
    context = multiprocessing.get_context("spawn")
    url, home = database.url.render_as_string(hide_password=False), str(settings.home)
    barrier = context.Manager().Barrier(2)
    with context.Pool(2) as pool:
        lines = [pool.apply_async(run_rounds, (url, home, barrier)) for _ in range(2)]
        found = [line.get(timeout=300) for line in lines]
    sent = [job_id for each in found for job_id in each.sent]
    decisions_s = [taken for each in found for taken in each.decisions_s]
    return {
        "sent": len(sent),
        "twice": len(sent) - len(set(sent)),
        "decide_s": round(statistics.median(decisions_s), 4),
    }


def run_rounds(url: str, home: str, barrier: Any) -> Rounds:
    """Run some rounds in a process of its own, from the same moment as the other one."""
    database, found = Database(url), Rounds()
    settings = load_settings(running=False, home=Path(home))
    decide(database, settings)  # the caches are warm
    barrier.wait(60)
    for _ in range(ROUNDS):
        began = time.perf_counter()
        decide(database, settings)
        found.decisions_s.append(time.perf_counter() - began)
        dispatch(database, settings, lambda sending: found.sent.append(sending.job_id))
    database.dispose()
    return found


def decide(database: Database, settings: Settings) -> int:
    """Decide a round and return the number of releases; nothing is written."""
    with database.session(Scope.everything) as session:
        return len(decide_round(session, settings).releases)


@contextmanager
def submits(database: Database, settings: Settings) -> Iterator[Callable[[], int]]:
    """Submit jobs in another process as fast as it can; gives a function that ends it and returns their number."""
    context = multiprocessing.get_context("spawn")
    stop, queue = context.Event(), context.SimpleQueue()
    url = database.url.render_as_string(hide_password=False)
    other = context.Process(target=submit_until, args=(url, str(settings.home), stop, queue))
    other.start()
    queue.get()  # it has begun

    def ended() -> int:
        stop.set()
        return queue.get()

    try:
        yield ended
    finally:
        stop.set()
        other.join()


def submit_until(url: str, home: str, stop: Event, queue: Any) -> None:
    """Accept jobs one after the other, as a control worker does, until the event is set."""
    database, count = Database(url), 0
    settings = load_settings(running=False, home=Path(home))
    queue.put("ready")
    while not stop.is_set():
        fields = {"base_model": "meta/llama-8b", "dataset": "/data/rows.jsonl", "tenant": f"team-{count % TENANTS:02d}"}
        with database.transaction(Scope.everything) as session:
            write_job(session, settings, f"new-{count}", parse_spec(fields), None)
        count += 1
    queue.put(count)
    database.dispose()
