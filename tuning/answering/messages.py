"""Defines the messages between the HTTP API and the answer host: one JSON object a line, on a unix socket.

A client sends one request and reads events until ``done`` or ``refused``. A client that closes its connection before
stops its answer. The host closes a connection without an event where it is about to leave: nothing was answered, and
the client asks the next host. No torch here: both sides import this module.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ..protocol import Base, HubAccess

REQUEST_BYTES = 32 << 20
"""Size of the longest request line; JSON writes some characters of a body of 8 MiB in more bytes than the body did."""
FinishReason = Literal["stop", "length"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(_Message):
    """One message of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class AnswerRequest(_Message):
    """Answer a conversation with an adapter, or with the bare base."""

    owner: str = Field(description="whose adapters may be loaded together with this one; empty: everybody's")
    tenant: str = Field(description="who asks; the host limits how many requests of one tenant wait")
    base: Base | None = Field(None, description="the resolved base of the adapter")
    base_name: str = Field("", description="a bare base by its name; a copy of it is on this machine, or none answers")
    most_base_bytes: int = Field(description="size of the largest base that is loaded, at 16 bits a weight")
    hub: HubAccess = HubAccess()
    adapter: str | None = Field(None, description="a name of these very weights; never used for others")
    adapter_dir: str | None = Field(None, description="a committed folder with a manifest")
    template: str | None = Field(None, description="the template that the training named")
    quantization: Literal["nf4", "none"] = "nf4"
    messages: list[Turn]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: list[str] = Field(default_factory=list, description="texts at which the answer ends; they are not in it")
    seed: int | None = Field(None, description="of the sampling; equal requests with a seed get equal answers")


class Started(_Message):
    """The prompt is read, and the model writes."""

    event: Literal["started"] = "started"
    prompt_tokens: int


class Words(_Message):
    """The next part of the answer's text."""

    event: Literal["words"] = "words"
    text: str


class Done(_Message):
    """The end of an answer, with its whole text."""

    event: Literal["done"] = "done"
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class Refused(_Message):
    """A request that gets no answer, or no further part of one."""

    event: Literal["refused"] = "refused"
    code: str = Field(description="busy, too_large, context_length_exceeded, bad_prompt, or the code of an error")
    message: str
    facts: dict[str, int] = Field(default_factory=dict)


AnswerEvent = Annotated[Started | Words | Done | Refused, Field(discriminator="event")]
_events: TypeAdapter[AnswerEvent] = TypeAdapter(AnswerEvent)


def parse_event(line: bytes) -> AnswerEvent:
    """Parse one line of the host."""
    return _events.validate_json(line)


def line_of(message: _Message) -> bytes:
    """Write a message as a line."""
    return message.model_dump_json().encode() + b"\n"


def base_bytes(base: Base) -> int:
    """Return the size of a base at 16 bits a weight."""
    return 2 * base.parameters


def is_too_large(base: Base, most_bytes: int) -> bool:
    """Return whether a base is too large to answer by the host."""
    return base_bytes(base) > most_bytes
