# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""An upload to the API, and the same bytes to a bare application that reads, hashes and drops them."""

import hashlib
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from door_parts.served import Door

PIECE = 64 << 10
BOUNDARY = "a-boundary"


def measure_upload(door: Door, mib: int) -> dict[str, Any]:
    """Upload a file and send the same bytes to a bare application in turn; measure memory and written bytes."""
    ours, bare, memory, written = list[float](), list[float](), list[int](), list[int]()
    with bare_application() as bare_port:
        upload(door.port, door.keys["team-02"], 8, seed=99)
        for number in range(3):
            door.reset_peak()
            before, wrote = door.rss_bytes(peak=False), door.written_bytes()
            ours.append(upload(door.port, door.keys["team-02"], mib, seed=number))
            memory.append(door.rss_bytes(peak=True) - before)
            written.append(door.written_bytes() - wrote)
            bare.append(upload(bare_port, "", mib, seed=number))
    rates = [mib / statistics.median(seconds) for seconds in (ours, bare)]
    return {
        "upload_mib": mib,
        "memory_mib": round(max(memory) / 2**20, 1),
        "written_share": round(max(written) / (mib << 20), 3),
        "mib_per_s": round(rates[0], 1),
        "bare_mib_per_s": round(rates[1], 1),
        "rate_share": round(rates[0] / rates[1], 2),
        "sent_before_wrong_key_mib": sent_before_answer(door.port, "wrong", mib, b"401"),
        "sent_before_length_mib": sent_before_answer(door.port, door.keys["team-02"], 10 << 10, b"413"),
    }


def form_head() -> bytes:
    """Return what stands before the bytes of the file in a form."""
    parts = ('name="purpose"\r\n\r\nfine-tune', 'name="file"; filename="rows.jsonl"\r\n\r\n')
    return "\r\n".join(f"--{BOUNDARY}\r\ncontent-disposition: form-data; {part}" for part in parts).encode()


def head_of(key: str, length: int) -> bytes:
    """Return the head of an upload."""
    head = f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
    kind = f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}{kind}content-length: {length}\r\n\r\n".encode()


def upload(port: int, key: str, mib: int, *, seed: int) -> float:
    """Upload a file; return the seconds until the answer."""
    piece = random.Random(seed).randbytes(1 << 20)  # noqa: S311  (no secret)
    first, tail = form_head(), f"\r\n--{BOUNDARY}--\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.perf_counter()
        connection.sendall(head_of(key, len(first) + (mib << 20) + len(tail)) + first)
        for _ in range(mib):
            connection.sendall(piece)
        connection.sendall(tail)
        answer = connection.recv(1 << 16)
        if b" 200 " not in answer[:20]:
            raise AssertionError(answer)
        return time.perf_counter() - began


def sent_before_answer(port: int, key: str, mib: int, status: bytes) -> float:
    """Send an upload until its refusal arrives; return the MiB that the system took from this client before it."""
    sent, piece = 0, bytes(PIECE)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head_of(key, mib << 20) + form_head())
        connection.settimeout(0)
        while True:
            try:
                if status in connection.recv(4096):
                    return round(sent / 2**20, 2)
            except BlockingIOError:
                pass
            try:
                sent += connection.send(piece)
            except BlockingIOError:
                time.sleep(0.001)


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Read a body, hash it, and drop it: an application without anything else."""
    if scope["type"] != "http":
        return
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        more = message.get("more_body", False)
    told = digest.hexdigest().encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"64")]})
    await send({"type": "http.response.body", "body": told})


@contextmanager
def bare_application() -> Iterator[int]:
    """Serve ``bare`` by uvicorn on the same parser of HTTP, in a process of its own."""
    from waiting import until  # noqa: PLC0415  (a part of the tests)

    from celora.workers.node.ports import free_port  # noqa: PLC0415

    port = free_port()
    program = [sys.executable, "-m", "uvicorn", "door_parts.uploads:bare", "--port", str(port), "--http", "h11"]
    process = subprocess.Popen([*program, "--lifespan", "off", "--log-level", "error"], cwd=Path(__file__).parents[1])
    try:
        until(lambda: answers(port))
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    """Return whether something listens on a port."""
    with closing(socket.socket()) as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
