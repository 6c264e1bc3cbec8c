"""Runs the stage of a request, and reports its result or its error as an event and an exit code.

A trainer process and a resident trainer host run stages through this module alike. Each stage imports only what it
needs.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ...errors import CeloraError
from .. import garbage_collector, resource_limits
from ..protocol import (
    EXIT_DRAINED,
    WHOLE_DEVICE,
    Emit,
    EvaluateRequest,
    GenerateRequest,
    IndexRequest,
    MergeRequest,
    PrepareRequest,
    Request,
    TrainRequest,
    Turn,
)
from .events import JobEvents, RunInterrupted

if TYPE_CHECKING:
    from ..bases.base import LoadModel

EXIT_USAGE = 64
EXIT_INTERNAL = 70


@dataclass(frozen=True)
class Circumstances:
    """The parts of a stage that depend on its process.

    Attributes:
        load_model: Returns the base that the process holds; None: the stage loads it.
        before_done: Called between the end of the work and the ``done`` event; its error is the run's.
        turn: The run's turn on a device that several runs of the process share.
    """

    load_model: "LoadModel | None" = None
    before_done: Callable[[], None] = lambda: None
    turn: Turn = WHOLE_DEVICE


def answer_request(
    request: Request, events: JobEvents, stop: threading.Event, circumstances: Circumstances = Circumstances()
) -> int:
    """Run the stage of a request, report its result or its error, and return the exit code.

    Args:
        request: The request.
        events: Writes the events of the run.
        stop: Set from outside to end the run.
        circumstances: The parts that depend on the process.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        _limit_threads(request)
        result = _dispatch(request, events, stop, circumstances)
        circumstances.before_done()
    except CeloraError as error:
        traceback.print_exc()
        events.fail(error)
        return error.exit_code
    except RunInterrupted:
        events.emit("drained", step=0)
        return EXIT_DRAINED
    except Exception as error:  # noqa: BLE001  (this is the edge: any error becomes an event and an exit code)
        traceback.print_exc()
        words = str(error).strip().splitlines()
        message = f"{type(error).__name__}: {words[0] if words else 'no message'}"
        events.emit("failed", error={"code": "internal", "message": message, "hint": "The job's log has the details."})
        return EXIT_INTERNAL
    if result is None:
        return EXIT_DRAINED
    events.emit("done", result=result.model_dump(mode="json"))
    return 0


def _dispatch(
    request: Request, events: JobEvents, stop: threading.Event, circumstances: Circumstances
) -> BaseModel | None:
    """Import only the modules that the stage needs, then run the stage."""
    run = _stage_of(request, events, stop, circumstances)
    garbage_collector.resume()
    return run()


def _stage_of(
    request: Request, events: JobEvents, stop: threading.Event, circumstances: Circumstances
) -> Callable[[], BaseModel | None]:
    load_model, turn = circumstances.load_model, circumstances.turn
    holding: dict[str, Any] = {"load_model": load_model} if load_model else {}
    match request:
        case PrepareRequest():
            from ..files.source_files import fetching  # noqa: PLC0415  (each stage imports its own)
            from ..prepare.prepare import prepare  # noqa: PLC0415

            return partial(_limited, fetching(prepare), request, events)
        case IndexRequest():
            from ..rows.row_hashes import index  # noqa: PLC0415

            return partial(_limited, index, request, events)
        case TrainRequest():
            hide_trackers(request.recipe.report_to)
            from ..training.run import train  # noqa: PLC0415

            return partial(train, request, events.emit, stop, turn=turn, **holding)
        case EvaluateRequest():
            from ..evaluation.evaluate import evaluate  # noqa: PLC0415

            return partial(evaluate, request, events.emit, turn=turn, **holding)
        case GenerateRequest():
            from ..evaluation.generate import generate  # noqa: PLC0415

            return partial(generate, request, events.emit, turn=turn, **holding)
        case MergeRequest():
            from ..adapters.merge import merge  # noqa: PLC0415

            return partial(merge, request, events.emit)


def hide_trackers(used: Collection[str]) -> None:
    """Block the import of trackers that the run does not report to, as if they were not installed.

    TRL and transformers import wandb wherever it is installed: 0.2 s, and a temporary folder that nobody removes.
    """
    for name in ("wandb",):
        if name not in used:
            sys.modules.setdefault(name, None)  # pyright: ignore[reportArgumentType, reportCallIssue]  (Python's own mark)


def _limited(run: Callable[[Any, Emit], Any], request: PrepareRequest | IndexRequest, events: JobEvents) -> BaseModel:
    """Run a stage that reads foreign data within the request's limits."""
    guard = resource_limits.impose(request.limits, resource_limits.end_with(events.fail))

    def emit(event: str, **fields: Any) -> None:
        guard.doing = fields.get("phase", guard.doing)
        events.emit(event, **fields)

    try:
        return run(request, emit)
    except MemoryError as error:
        raise resource_limits.memory_error(request.limits, guard.doing) from error
    finally:
        guard.stop()


def _limit_threads(request: Request) -> None:
    """Set torch's CPU threads before torch is imported, so that OpenMP makes no more; 0 leaves torch all cores."""
    if request.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(request.threads)
    if request.threads and not isinstance(request, PrepareRequest | IndexRequest):  # which may need no torch at all
        import torch  # noqa: PLC0415  (the environment has to be set before)

        torch.set_num_threads(request.threads)  # pyright: ignore[reportUnknownMemberType]


def refuse_line(events: JobEvents, error: ValidationError) -> int:
    """Report a line that is no request, or a request that this version does not understand; return the exit code."""
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
