"""Shares work among forked copies of this process: each takes pieces, and results are returned in the pieces' order.

A copy has all memory of its parent, so a piece is a few numbers and only results travel. A copy helps but is never
needed: a copy that fails, for any reason (its memory, a limit, a bug), is dropped. The caller then does the piece, and
there the same fault occurs with its full explanation. A copy has the limits of its parent, stays in its process group,
and is ended with it by the kernel (Linux; elsewhere a copy ends when its connection closes).

Only code without locks that another thread of the parent may hold runs in a copy: reading rows, templates, a tokenizer.
"""

import ctypes
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Generic, NoReturn, TypeVar, cast

from .. import resource_limits

MOST_PROCESSES = 8
WAITING_PIECES = 3
"""Pieces that one copy holds at a time, so that the copy never waits for the next."""

GARBAGE = 50_000
"""Objects until garbage is collected. A piece leaves next to none, and is freed when it is done."""

PR_SET_PDEATHSIG = 1
FAILED = 70

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def processes(asked: int = 0) -> int:
    """Return the number of useful copies: one for each core that this process may use.

    Args:
        asked: Upper limit; 0: all cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_PROCESSES, asked or MOST_PROCESSES)


def shared_out(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], count: int
) -> Generator[tuple[Piece, Result | None]]:
    """Let copies of this process work on pieces.

    Args:
        work: The function for a piece; it runs in a copy, and its changes there are lost.
        pieces: The pieces, read as they are needed.
        count: Number of copies.

    Yields:
        Each piece, in order, with its result; None where no copy could do it.
    """
    copies: list[_Copy[Piece, Result]] = []
    given: deque[tuple[Piece, _Copy[Piece, Result] | None]] = deque()
    try:
        with suppress(OSError):  # no more processes are allowed: the existing copies suffice
            for _ in range(count):
                copies.append(_Copy[Piece, Result].start(work, copies))
        for piece in pieces:
            if len(given) >= max(1, WAITING_PIECES * len(copies)):
                yield _taken(given, copies)
            able = [copy for copy in copies if copy.alive]
            copy = min(able, key=lambda one: one.waiting) if able else None
            given.append((piece, copy if copy and copy.ask(piece) else None))
        while given:
            yield _taken(given, copies)
    finally:
        for copy in copies:
            copy.end()


def _taken(
    given: "deque[tuple[Piece, _Copy[Piece, Result] | None]]", copies: "list[_Copy[Piece, Result]]"
) -> tuple[Piece, Result | None]:
    """Return the first piece's result; other ready results are read meanwhile, so that no copy blocks on sending."""
    piece, copy = given.popleft()
    while copy and copy.alive and not copy.results:
        for ready in wait([one.connection for one in copies if one.alive and one.waiting]):
            next(one for one in copies if one.connection is ready).read()
    return piece, copy.results.popleft() if copy and copy.results else None


@dataclass(slots=True, eq=False)
class _Copy(Generic[Piece, Result]):
    """Controls one forked copy from its parent."""

    pid: int
    connection: Connection
    alive: bool = True
    waiting: int = 0
    results: deque[Result] = field(default_factory=deque[Result])

    @classmethod
    def start(cls, work: Callable[[Piece], Result], others: "list[_Copy[Piece, Result]]") -> "_Copy[Piece, Result]":
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads; see the module's docstring
            pid = os.fork()
        if not pid:
            _be_a_copy(work, theirs, [ours, *(other.connection for other in others)])
        theirs.close()
        return cls(pid, ours)

    def ask(self, piece: Piece) -> bool:
        """Send the copy a piece; a few numbers fit into the pipe, so this does not block."""
        try:
            self.connection.send(piece)
        except OSError:
            self.alive = False
            return False
        self.waiting += 1
        return True

    def read(self) -> None:
        """Receive a ready result, or mark the copy as gone."""
        try:
            result, cpu_s = cast("tuple[Result, float]", self.connection.recv())
        except (EOFError, OSError):
            self.alive = False
            return
        self.waiting -= 1
        self.results.append(result)
        resource_limits.add_cpu(cpu_s)

    def end(self) -> None:
        """End the copy, and wait for its exit."""
        self.connection.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _be_a_copy(work: Callable[[Any], Any], connection: Connection, foreign: list[Connection]) -> NoReturn:
    """Run the copy; no code of its parent runs after this function."""
    try:
        for other in foreign:
            other.close()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the tokenizer's threads stayed with the parent
        gc.freeze()  # older objects are the parent's: tracing them would copy their pages
        gc.set_threshold(GARBAGE)
        resource_limits.impose_again()
        _serve(work, connection)
        os._exit(0)
    except BaseException:  # noqa: BLE001  (a copy never runs on into its parent's code, whatever happens)
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(FAILED)


def _serve(work: Callable[[Any], Any], connection: Connection) -> None:
    """Answer requests until the connection closes; a thread sends, so that the next piece begins meanwhile."""
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send() -> None:
        while (answer := done.get()) is not None:
            connection.send(answer)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    used = time.process_time()
    with suppress(EOFError, OSError):
        while True:
            result = work(connection.recv())
            now = time.process_time()
            done.put((result, now - used))
            used = now
    done.put(None)
    sender.join()
