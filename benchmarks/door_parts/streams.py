# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""Reads of one job beside many open streams of events."""

import random
import socket
import threading
import time
from contextlib import ExitStack, closing
from typing import Any

import tenants
from door_parts.served import Door, percentiles
from sqlalchemy import insert, text

from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Event

STREAMS = 200


def measure_streams(door: Door, jobs: int, calls: int) -> dict[str, Any]:
    """Read one job beside many streams of events; a tenth of them gets news twice a second.

    Raises:
        AssertionError: A stream is refused, or no event arrives.
    """
    from waiting import until  # noqa: PLC0415  (a part of the tests)

    places = [place % (jobs // tenants.TENANTS - 1) for place in range(STREAMS)]
    watched = [tenants.job_at(place * tenants.TENANTS, "team-06") for place in places]
    with get_database().session(Scope.everything) as session:
        session.connection().execute(text("UPDATE job SET status = 'running' WHERE id = ANY(:ids)"), {"ids": watched})
    with ExitStack() as stack:
        opened_ = [stack.enter_context(closing(open_stream(door, job_id))) for job_id in watched]
        over, received = threading.Event(), [0]
        readers = [threading.Thread(target=drain, args=(opened_, over, received))]
        readers.append(threading.Thread(target=make_news, args=(watched[:: STREAMS // 20], over)))
        for reader in readers:
            reader.start()
        until(lambda: received[0], "no event arrived")
        chance, taken = random.Random(7), list[float]()  # noqa: S311  (no secret)
        for _ in range(calls):
            tenant = tenants.some_tenant(chance)
            path = f"/v1/fine_tuning/jobs/{tenants.some_job(chance, jobs, tenant)}"
            began = time.perf_counter()
            door.ask("GET", path, tenant)
            taken.append((time.perf_counter() - began) * 1000)
            time.sleep(0.02)
        over.set()
        for reader in readers:
            reader.join()
    beside = percentiles(taken)
    return {
        "streams": STREAMS,
        "events_received": received[0],
        "retrieve_beside_p50_ms": beside["p50"],
        "retrieve_beside_p99_ms": beside["p99"],
    }


def open_stream(door: Door, job_id: str) -> socket.socket:
    """Open a stream of a job's events."""
    stream = socket.create_connection(("127.0.0.1", door.port))
    head = f"GET /v1/celora/jobs/{job_id}/events/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    stream.sendall(f"{head}authorization: Bearer {door.keys['team-06']}\r\n\r\n".encode())
    if b" 200 " not in stream.recv(1024):
        raise AssertionError("the stream was refused")
    stream.settimeout(0)
    return stream


def drain(streams: list[socket.socket], over: threading.Event, received: list[int]) -> None:
    """Read what the streams send, and count the events."""
    while not over.wait(0.05):
        for stream in streams:
            try:
                received[0] += stream.recv(1 << 16).count(b"\ndata: ")
            except BlockingIOError:
                continue


def make_news(job_ids: list[str], over: threading.Event) -> None:
    """Write an event of each job twice a second."""
    fields = {"attempt": 1, "level": "info", "kind": "eval", "message": "step 1: eval loss 1.0"}
    while not over.wait(0.5):
        with get_database().session(Scope.everything) as session:
            at = get_database().now(session)
            rows = [{**fields, "job_id": job_id, "at": at} for job_id in job_ids]
            session.connection().execute(insert(Event), rows)
