"""The trainer program: ``python -m celora.tuning.trainer --events-fd N``. Torch lives here and nowhere else.

One request line on standard input, events as JSON lines on file descriptor N, everything that libraries print on 1 and
2 (the job's log). It is built to be killed: end of file on standard input (the supervisor is gone), SIGTERM and a
cancel line all mean "checkpoint at the next step boundary and leave"; before the first step, and in the stages that
have no checkpoint, they mean "leave now". Whoever ends it that way finds exit code 75.

Exit codes: 0 done, 75 drained, that of the error (settings/errors.py) where it can be explained, 70 otherwise.
"""

import argparse
import faulthandler
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from typing import Any

from pydantic import ValidationError

from ..settings.errors import CeloraError
from .protocol import (
    EXIT_DRAINED,
    Emit,
    EvaluateRequest,
    GenerateRequest,
    IndexRequest,
    PrepareRequest,
    Request,
    TrainRequest,
    event_line,
    parse_request,
)

EXIT_USAGE = 64
EXIT_INTERNAL = 70


class Events:
    """Writes event lines; safe from any thread.

    Args:
        fd: The descriptor to write to; it belongs to this object now.
        lost: Called once when nobody reads any more.
    """

    def __init__(self, fd: int, lost: Callable[[], None]) -> None:
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._lost = lost
        self._lock = threading.Lock()
        self.job, self.attempt = "", 0
        self._stays = False

    def emit(self, event: str, **fields: Any) -> None:
        """One event as one line."""
        line = memoryview(event_line(event, job=self.job, attempt=self.attempt, **fields))
        with self._lock:
            if event in {"started", "done", "failed"}:
                self._stays = True
            try:
                while line:
                    line = line[self._file.write(line) or 0 :]
            except BrokenPipeError:
                self._lost()

    def close(self) -> None:
        """No more events."""
        self._file.close()

    def leave(self) -> None:
        """End the process now, unless it has step boundaries to stop at or is done; no event is cut in the middle."""
        with self._lock:
            if self._stays:
                return
            with suppress(BrokenPipeError):
                self._file.write(event_line("drained", job=self.job, attempt=self.attempt, step=0))
            os._exit(EXIT_DRAINED)  # the main thread may be deep in a library that catches everything


def main(argv: list[str] | None = None) -> int:
    """Answer one request; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m celora.tuning.trainer", description=__doc__)
    parser.add_argument("--events-fd", type=int, required=True, help="file descriptor that events are written to")
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    events = Events(arguments.events_fd, stop.set)

    def on_signal(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the stacks of all threads into the log: what is it waiting for?
    # unbuffered: a thread that waits inside a buffered reader makes the interpreter's own shutdown fail
    requests = FileIO(sys.stdin.fileno(), closefd=False)
    line = requests.readline()
    try:
        request = parse_request(line)
    except ValidationError as error:
        return _refuse(events, line, error)
    events.job, events.attempt = request.job, request.attempt
    threading.Thread(target=_watch, args=(requests, request.job, stop), daemon=True).start()
    threading.Thread(target=_leave_on, args=(stop, events), daemon=True).start()
    return _answer(request, events, stop)


def _answer(request: Request, events: Events, stop: threading.Event) -> int:
    """Run the request and say how it went."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        _use_threads(request)
        result = _dispatch(request, events, stop)
    except CeloraError as error:
        traceback.print_exc()
        _fail(events, error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  (this is the edge: whatever it was becomes an event and an exit code)
        traceback.print_exc()
        words = str(error).strip().splitlines()
        message = f"{type(error).__name__}: {words[0] if words else 'no message'}"
        events.emit("failed", error={"code": "internal", "message": message, "hint": "The job's log has the details."})
        return EXIT_INTERNAL
    if result is None:
        return EXIT_DRAINED
    events.emit("done", result=result.model_dump(mode="json"))
    return 0


def _fail(events: Events, error: CeloraError) -> None:
    events.emit("failed", error={"code": error.code, "message": error.message, "hint": error.hint})


def _dispatch(request: Request, events: Events, stop: threading.Event) -> Any:
    """Each stage imports what it needs when it is asked for."""
    match request:
        case PrepareRequest():
            from .dataset import prepare  # noqa: PLC0415
            from .sources import fetching  # noqa: PLC0415

            return _limited(fetching(prepare), request, events)
        case IndexRequest():
            from .hashes import index  # noqa: PLC0415

            return _limited(index, request, events)
        case TrainRequest():
            from .engine import train  # noqa: PLC0415

            return train(request, events.emit, stop)
        case EvaluateRequest():
            from .evaluation import evaluate  # noqa: PLC0415

            return evaluate(request, events.emit)
        case GenerateRequest():
            from .evaluation import generate  # noqa: PLC0415

            return generate(request, events.emit)


def _limited(run: Callable[[Any, Emit], Any], request: PrepareRequest | IndexRequest, events: Events) -> Any:
    """Data is foreign: read it within limits."""
    from . import limits  # noqa: PLC0415  (the other stages have none)

    guard = limits.impose(request.limits, limits.end_with(lambda error: _fail(events, error)))

    def emit(event: str, **fields: Any) -> None:
        guard.doing = fields.get("phase", guard.doing)
        events.emit(event, **fields)

    try:
        return run(request, emit)
    except MemoryError as error:
        raise limits.memory_error(request.limits, guard.doing) from error
    finally:
        guard.stop()


def _use_threads(request: Request) -> None:
    """CPU threads of torch; before it is imported, so that OpenMP makes no more than these. 0 leaves it all cores."""
    if request.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(request.threads)
    if request.threads and not isinstance(request, PrepareRequest | IndexRequest):  # which may need no torch at all
        import torch  # noqa: PLC0415  (the environment has to be set before)

        torch.set_num_threads(request.threads)  # pyright: ignore[reportUnknownMemberType]


def _watch(requests: FileIO, job: str, stop: threading.Event) -> None:
    """Stop on a cancel line for this job, and when standard input ends."""
    for line in requests:
        try:
            message: Any = json.loads(line)
        except ValueError:
            print(f"trainer: not a JSON line on standard input, ignored: {line[:80]!r}", file=sys.stderr)  # noqa: T201
            continue
        if isinstance(message, dict) and message.get("op") == "cancel" and message.get("job") == job:  # pyright: ignore[reportUnknownMemberType]
            break
    stop.set()


def _leave_on(stop: threading.Event, events: Events) -> None:
    stop.wait()
    events.leave()


def _refuse(events: Events, line: bytes, error: ValidationError) -> int:
    """No request at all, or one that this version does not understand."""
    if not line:
        return EXIT_DRAINED  # the supervisor was gone before it asked for anything
    problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'line'}: {item['msg']}" for item in error.errors())
    events.emit(
        "failed",
        error={
            "code": "bad_settings",
            "message": f"The trainer cannot read its request: {problems}.",
            "hint": "Run the worker and the trainer from the same version of celora.",
        },
    )
    return EXIT_USAGE


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is written and closed; taking torch apart would keep the slot for another second
