"""The trainer program: ``python -m celora.tuning.trainer --events-fd N``. Torch lives here and nowhere else.

One request line on standard input, events as JSON lines on file descriptor N, everything that libraries print on 1 and
2 (the job's log). It is built to be killed: end of file on standard input (the supervisor is gone), SIGTERM and a
cancel line all mean "checkpoint at the next step boundary and leave" (supervision.py); before the first step, and in
the stages that have no checkpoint, they mean "leave now". Whoever ends it that way finds exit code 75.

Exit codes: 0 done, 75 drained, that of the error (settings/errors.py) where it can be explained, 70 otherwise.
"""

import argparse
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..settings.errors import CeloraError
from . import limits
from .protocol import (
    EXIT_DRAINED,
    Emit,
    EvaluateRequest,
    GenerateRequest,
    IndexRequest,
    MergeRequest,
    PrepareRequest,
    Request,
    TrainRequest,
    event_line,
    parse_request,
)
from .supervision import GRACE_S, Supervision, dump_on_request, keep_logging

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
        self.after_checkpoint: Callable[[int], None] = lambda _step: None
        """Called with the step of a checkpoint when its event is out; the run goes on when it returns."""

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
        if event == "checkpoint":
            self.after_checkpoint(fields["step"])

    def close(self) -> None:
        """No more events."""
        self._file.close()

    def leave(self, end: Callable[[int], None]) -> None:
        """End the process now, unless it has step boundaries to stop at or is done; no event is cut in the middle."""
        with self._lock:
            if self._stays:
                return
            with suppress(BrokenPipeError):
                self._file.write(event_line("drained", job=self.job, attempt=self.attempt, step=0))
            end(EXIT_DRAINED)  # the main thread may be deep in a library that catches everything


def main(argv: list[str] | None = None) -> int:
    """Answer one request; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m celora.tuning.trainer", description=__doc__)
    parser.add_argument("--events-fd", type=int, required=True, help="file descriptor that events are written to")
    arguments = parser.parse_args(argv)
    keep_logging()
    dump_on_request()
    stop = threading.Event()
    events = Events(arguments.events_fd, stop.set)
    supervision = Supervision(stop, sys.stdin.fileno())
    line = FileIO(sys.stdin.fileno(), closefd=False).readline()  # unbuffered: the rest is for the watching thread
    try:
        request = parse_request(line)
    except ValidationError as error:
        return _refuse(events, line, error)
    events.job, events.attempt = request.job, request.attempt
    if isinstance(request, TrainRequest) and request.acknowledged:
        events.after_checkpoint = supervision.kept.wait
    supervision.start(request.job, request.grace_s if isinstance(request, TrainRequest) else GRACE_S)
    threading.Thread(target=_leave_on, args=(stop, request, events, supervision), daemon=True).start()
    code = _answer(request, events, stop)
    if supervision.orphaned:
        supervision.end(code)
    return code


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
    facts = {"facts": error.facts} if error.facts else {}
    events.emit("failed", error={"code": error.code, "message": error.message, "hint": error.hint, **facts})


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
        case MergeRequest():
            from .merging import merge  # noqa: PLC0415

            return merge(request, events.emit)


def _limited(run: Callable[[Any, Emit], Any], request: PrepareRequest | IndexRequest, events: Events) -> Any:
    """Data is foreign: read it within limits."""
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


def _leave_on(stop: threading.Event, request: Request, events: Events, supervision: Supervision) -> None:
    stop.wait()

    def end(code: int) -> None:
        if isinstance(request, PrepareRequest):
            for folder in limits.leftovers(Path(request.out_dir)):
                shutil.rmtree(folder, ignore_errors=True)
        supervision.end(code)

    events.leave(end)


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
