"""Answers trainer requests in processes that it forks, so that a figure with hundreds of them imports torch once.

A forked process is new: it has imported the libraries and done nothing else with them. It answers its request with the
trainer program's own code, from ``answer_request`` on. One order a line on standard input:

    request      a trainer request, as JSON
    events       file to which its events go
    failpoints   as CELORA_FAILPOINT
    poison       {"step": n, "what": "loss" or "gradient"}: a NaN in the first pass of that step
    at           {"event": name, "step": n, "fill": folder, "leave": bytes, "limit": bytes, "stop": true}: at that
                 event fill the folder's file system but for some bytes, or limit files to a size, or ask it to drain
    log          file for its standard output; /dev/full is one

Answers with one JSON line when it was forked (pid) and one when it is gone (code).
"""

import json
import os
import resource
import shutil
import sys
import threading
import traceback
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"


def main():
    """Import, then fork for each order."""
    import torch

    torch.set_num_threads(1)
    from celora.tuning.evaluation import evaluate  # noqa: F401  (this is what a fork shall not pay for)
    from celora.tuning.files import sources  # noqa: F401  (this is what a fork shall not pay for)
    from celora.tuning.prepare import prepare  # noqa: F401  (this is what a fork shall not pay for)
    from celora.tuning.training import run  # noqa: F401  (this is what a fork shall not pay for)

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = answer(order)
            except BaseException:  # noqa: BLE001  (a forked process never returns into the loop)
                traceback.print_exc()
            os._exit(code)
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)


def answer(order):
    """In the forked process: arm what is to go wrong, and run the request."""
    from celora.settings import failpoints
    from celora.tuning.protocol import parse_request
    from celora.tuning.trainer import parent_watch, stages
    from celora.tuning.trainer.events import EventStream

    log = os.open(order.get("log", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    parent_watch.keep_logging()
    if order.get("failpoints"):
        failpoints._armed = failpoints.parse(order["failpoints"])
    if order.get("poison"):
        poison(**order["poison"])
    request, stop = parse_request(json.dumps(order["request"])), threading.Event()
    stream = EventStream(os.open(order["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stop.set)
    return stages.answer_request(request, events_of(stream, request, order.get("at"), stop), stop)


def events_of(stream, request, at, stop):
    """The trainer program's events, which make something happen when they tell of it."""
    from celora.tuning.trainer.events import JobEvents

    class Told(JobEvents):
        def emit(self, event, **fields):
            super().emit(event, **fields)
            if at and at["event"] == event and at.get("step") in (None, fields.get("step")):
                happen(at, stop)

    return Told(stream, request.job, request.attempt)


def happen(at, stop):
    """What an order's ``at`` asks for."""
    if at.get("fill"):
        fill(Path(at["fill"]), at.get("leave", 0))
    if at.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (at["limit"], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    if at.get("stop"):
        stop.set()


def fill(folder, leave):
    """Take all of a file system's room but some bytes."""
    with (folder / "filler").open("ab") as file:
        room = shutil.disk_usage(folder).free - leave
        if room > 0:
            os.posix_fallocate(file.fileno(), file.tell(), room)


def poison(step, what):
    """The first pass of a step gives a NaN: as its loss, or only as its gradient (the root of 0 has no slope)."""
    from celora.tuning.training.engines import sft

    real, passes = sft.summed_loss, []

    def poisoned(model, batch, _right):
        passes.append(1)
        value = real(model, batch)
        if len(passes) != 2 * (step - 1) + 1:
            return value
        return value * float("nan") if what == "loss" else value + (value - value.detach()).abs().sqrt()

    sft.summed_loss = poisoned


if __name__ == "__main__":
    main()
