"""Defines the remote commands that a worker executes, and the arguments of each.

Everybody who can write to the broker can send a remote command to every worker. celora needs few: the cancel of a job,
``look``, and the queries of Flower and of probes. All others (``time_limit``, ``pool_grow``, ``add_consumer``,
``shutdown`` …) would change a worker without the record and are refused; an operator has ``celora drain``,
``celora cordon`` and signals.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .message_schema import Envelope, MalformedMessageError, Name, decoded_body, first_fault

MOST_IDS = 1000
"""Largest number of ids in one command."""


class MalformedCommandError(Exception):
    """A broadcast does not have the shape of a remote command; the text holds no value of it."""


class _Arguments(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class NoArguments(_Arguments):
    """The arguments of a command that takes none."""


class RevokeArguments(_Arguments):
    """The arguments of ``revoke``."""

    task_id: Name | Annotated[list[Name], Field(max_length=MOST_IDS)]
    terminate: Annotated[bool, Field(strict=False)] = False  # Flower's page sends it as text
    signal: Literal["SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "TERM", "KILL", "INT", "QUIT"] | None = None


class QueryArguments(_Arguments):
    """The arguments of ``query_task``."""

    ids: Name | Annotated[list[Name], Field(max_length=MOST_IDS)]


class ActiveArguments(_Arguments):
    """The arguments of ``active``."""

    safe: bool | None = None


class ConfigurationArguments(_Arguments):
    """The arguments of ``conf``, whose answer masks passwords."""

    with_defaults: bool | None = None


class RegisteredArguments(_Arguments):
    """The arguments of ``registered``, restricted because Celery would show any attribute of a task by name."""

    taskinfoitems: list[Literal["exchange", "routing_key", "rate_limit"]] | None = None
    builtins: bool | None = None


class ClockArguments(_Arguments):
    """The arguments of ``ping`` and other queries, to which some clients add arguments of their own."""

    model_config = ConfigDict(strict=True, extra="ignore")


ALLOWED: dict[str, type[BaseModel]] = {
    "look": NoArguments,
    "revoke": RevokeArguments,
    "ping": ClockArguments,
    "clock": ClockArguments,
    "enable_events": NoArguments,
    "heartbeat": NoArguments,
    "stats": ClockArguments,
    "active": ActiveArguments,
    "dump_active": ActiveArguments,
    "reserved": ClockArguments,
    "dump_reserved": ClockArguments,
    "scheduled": ClockArguments,
    "dump_schedule": ClockArguments,
    "revoked": ClockArguments,
    "dump_revoked": ClockArguments,
    "registered": RegisteredArguments,
    "dump_tasks": RegisteredArguments,
    "active_queues": ClockArguments,
    "query_task": QueryArguments,
    "conf": ConfigurationArguments,
    "dump_conf": ConfigurationArguments,
}
"""The arguments of each remote command that a worker executes, by name."""


class _ReplyTo(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    exchange: Literal["reply.celery.pidbox"]  # the only exchange where Celery's clients expect replies
    routing_key: Name


class _Command(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    method: Name
    arguments: dict[str, Any] | None = None
    destination: Annotated[list[Name], Field(max_length=MOST_IDS)] | None = None
    pattern: Annotated[str, Field(max_length=255)] | None = None
    matcher: Literal["glob"] | None = None  # a foreign regular expression may run for ever
    ticket: Name | None = None
    reply_to: _ReplyTo | None = None


class _CommandHeaders(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    clock: Annotated[int, Field(ge=0, le=2**62)] | None = None
    expires: Annotated[float, Field(allow_inf_nan=False)] | None = None


def check_control_message(raw: object) -> None:
    """Check a broadcast after JSON was read from it.

    Raises:
        MalformedCommandError: A field is missing or has a type that would harm a worker.
    """
    try:
        envelope = Envelope.model_validate(raw)
        _CommandHeaders.model_validate(envelope.headers)
        _Command.model_validate(decoded_body(envelope, envelope.headers.get("compression")))
    except ValidationError as error:
        raise MalformedCommandError(first_fault(error)) from None
    except MalformedMessageError as error:
        raise MalformedCommandError(str(error)) from None
