"""Checks the callbacks of a caller's ``finetune`` call: links, error links, the rest of a chain, a chord.

celora stores callbacks with the job and calls them at the job's end, days later. A fault would be found then, when
nobody waits for the answer any more. So each callback is built once, without being sent, when the job is accepted.
"""

import json
from typing import Annotated, Any, Literal

from celery import signature
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import SettingsError
from ..workers.celery import app

PARTS = ("callbacks", "errbacks", "chain", "chord")
MOST_LEVELS = 20
"""Nesting of groups, chains and chords; each level costs Celery a recursion."""
HINT = "Build them with Celery's signatures: link=app.signature(NAME), chain(finetune.s(…), …)."

Name = Annotated[str, Field(min_length=1, max_length=255)]
Seconds = Annotated[float, Field(ge=-(10**9), le=10**9, allow_inf_nan=False)]


class _Options(BaseModel):
    """The options of a signature that Celery uses when it sends the message; other options are headers and pass."""

    model_config = ConfigDict(strict=True, extra="allow")

    task_id: Name | None = None
    queue: Name | None = None
    exchange: Annotated[str, Field(max_length=255)] | None = None
    routing_key: Annotated[str, Field(max_length=255)] | None = None
    priority: Annotated[int, Field(ge=0, le=255)] | None = None
    countdown: Seconds | None = None
    eta: Name | None = None
    expires: Seconds | Name | None = None
    retries: Annotated[int, Field(ge=0, le=2**31)] | None = None
    serializer: Literal["json"] | None = None
    compression: Name | None = None
    headers: dict[str, Any] | None = None
    connection: None = None
    producer: None = None
    publisher: None = None
    router: None = None


class _Signature(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    task: Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: _Options = _Options()
    subtask_type: Name | None = None
    immutable: bool = False


class _OwnTaskError(Exception):
    """A callback names one of celora's own tasks, which a worker would send with rights that no application has."""


def check_callbacks(request: Any) -> None:
    """Check a request's links, error links, chain and chord, and remove the malformed ones.

    Malformed parts are removed from the request, so that Celery can still report the refusal to the caller.

    Args:
        request: The Celery request of a ``finetune`` message, changed in place.

    Raises:
        SettingsError: A part is no signature; the message names the part and the field.
    """
    faults: list[str] = []
    for part in PARTS:
        value: Any = getattr(request, part, None)
        if value is not None and (fault := _fault(value)):
            faults.append(f"{part}: {fault}")
            setattr(request, part, None)
    if faults:
        raise SettingsError(f"what follows the call is malformed ({'; '.join(faults)}).", hint=HINT)


def _fault(value: Any) -> str:
    """Return the reason why a part can't be called later; empty where it can."""
    signatures: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
    try:
        if _levels(value) > MOST_LEVELS * 3:
            return f"nested deeper than {MOST_LEVELS}"
        for one in signatures:
            _check(one)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(str(name)[:64] for name in first['loc'])}: {first['msg']}"
    except _OwnTaskError:
        return "a task of celora other than celora.finetune"
    except RecursionError:
        return f"nested deeper than {MOST_LEVELS}"
    except Exception as error:  # noqa: BLE001  (Celery would raise the same error at the job's end)
        return f"Celery can't build it ({type(error).__name__})"
    return ""


def _check(one: Any) -> None:
    found = _Signature.model_validate(one)
    if found.task.startswith("celora.") and found.task != "celora.finetune":
        raise _OwnTaskError
    for name in ("tasks", "header", "body"):
        inner: Any = found.kwargs.get(name) if (found.subtask_type or found.task.startswith("celery.")) else None
        for each in inner if isinstance(inner, list) else [inner] if inner is not None else []:  # pyright: ignore[reportUnknownVariableType]
            _check(each)
    signature(json.loads(json.dumps(one)), app=app).clone()


def _levels(value: Any) -> int:
    """Measure how deeply a JSON value is nested, without recursion."""
    deepest, todo = 0, [(value, 1)]
    while todo:
        one, level = todo.pop()
        deepest = max(deepest, level)
        inner: list[Any] = []
        if isinstance(one, dict):
            inner = list(one.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        elif isinstance(one, list):
            inner = one  # pyright: ignore[reportUnknownVariableType]
        todo += [(each, level + 1) for each in inner]
    return deepest
