"""Runs the trainer program: ``python -m celora.tuning.trainer --events-fd N``. Only this program loads torch.

The program reads one request line on standard input and writes events as JSON lines on file descriptor N. Output of
libraries goes to 1 and 2 (the job's log). The program may be killed at any time. End of file on standard input (the
supervisor is gone), SIGTERM and a cancel line all mean "checkpoint at the next step boundary and leave"
(parent_watch.py); before the first step, and in the stages that have no checkpoint, they mean "leave now". The exit
code is then 75.

Exit codes: 0 done, 75 drained, the error's own code (errors/__init__.py) for a known error, 70 otherwise.
"""

import argparse
import os
import shutil
import sys
import threading
from io import FileIO
from pathlib import Path

from pydantic import ValidationError

from .. import resource_limits
from ..protocol import EXIT_DRAINED, PrepareRequest, Request, TrainRequest, parse_request
from .events import EventStream, JobEvents
from .parent_watch import GRACE_S, ParentWatch, dump_on_request, keep_logging
from .stages import answer_request, hide_trackers, refuse_line


def main(argv: list[str] | None = None) -> int:
    """Answer one request, serve forks, or be a resident host, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m celora.tuning.trainer", description=__doc__)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--events-fd", type=int, help="file descriptor that events are written to")
    task.add_argument("--fork-server", type=int, help="file descriptor of a socket: fork a trainer for each message")
    task.add_argument("--serve", type=Path, help="path of a socket: carry its runs with one base (host_messages.py)")
    parser.add_argument("--idle-s", type=float, default=0.0, help="seconds that a server or a host waits for work")
    parser.add_argument("--owner", default=str(os.getppid()), help="process that a host ends with: PID or PID:START")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of a host; 0: all cores")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device of a host")
    parser.add_argument("--slots", type=int, default=1, help="runs that are inside a host at one time, in turns")
    arguments = parser.parse_args(argv)
    if arguments.serve is not None:
        from . import host_program  # noqa: PLC0415  (few processes are one)

        names = ("owner", "idle_s", "threads", "device", "slots")
        chosen = {name: getattr(arguments, name) for name in names}
        return host_program.serve(host_program.HostOptions(socket=arguments.serve, **chosen))
    if arguments.fork_server is not None:
        from . import fork_server  # noqa: PLC0415  (few processes are one)

        hide_trackers(())  # a trainer that reports to a tracker gets a process of its own
        return fork_server.run(arguments.fork_server, arguments.idle_s, answer)
    return answer(arguments.events_fd)


def answer(events: int) -> int:
    """Answer the request on standard input and return the exit code.

    Args:
        events: File descriptor that events are written to.
    """
    keep_logging()
    dump_on_request()
    parent = ParentWatch(sys.stdin.fileno())
    stream = EventStream(events, parent.stop_all)
    line = FileIO(sys.stdin.fileno(), closefd=False).readline()  # unbuffered: the rest is for the watching thread
    if not line:
        return EXIT_DRAINED  # the supervisor was gone before it asked for anything
    try:
        request = parse_request(line)
    except ValidationError as error:
        return refuse_line(JobEvents(stream), error)
    code = _run_job(request, stream, parent)
    if parent.orphaned:
        parent.end(code)
    return code


def _run_job(request: Request, stream: EventStream, parent: ParentWatch) -> int:
    """Answer one request and return the exit code; no state of the request stays in the process."""
    job = parent.add_job(request.job)
    waits = isinstance(request, TrainRequest) and request.acknowledged
    events = JobEvents(stream, request.job, request.attempt, *([job.acks.wait] if waits else []))
    parent.start(request.grace_s if isinstance(request, TrainRequest) else GRACE_S)
    threading.Thread(target=_leave_on_stop, args=(request, job.stop, events, parent), daemon=True).start()
    try:
        return answer_request(request, events, job.stop)
    finally:
        parent.drop_job(request.job)


def _leave_on_stop(request: Request, stop: threading.Event, events: JobEvents, parent: ParentWatch) -> None:
    stop.wait()

    def end(code: int) -> None:
        if isinstance(request, PrepareRequest):
            for folder in resource_limits.leftovers(Path(request.out_dir)):
                shutil.rmtree(folder, ignore_errors=True)
        parent.end(code)

    events.leave(end)
