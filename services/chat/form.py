"""Reads the request of a chat: OpenAI's form, as far as a model that was trained here can follow it.

A parameter that no model here follows is refused by its name, unless its value asks for nothing. Nothing is ignored
silently but the labels of a request (``user``, ``metadata`` and the like).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...errors import RequestError
from ...tuning.files.strict_json import JsonObject, JsonValue

DEFAULT_TOKENS = 256
"""Largest length of an answer where the request names none; that of ``celora generate``."""
GREEDY_BELOW = 0.01
"""A lower temperature counts as 0: its logits would exceed a float's range."""
UNSUPPORTED: dict[str, tuple[JsonValue, ...]] = {
    "audio": (),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Parameters of OpenAI's form that nothing here follows, each with the values that ask for nothing beside null."""
LABELS = ("metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
          "service_tier", "user")  # fmt: skip
"""Parameters that name a request for statistics or caches, and change no answer."""


class Part(BaseModel):
    """A part of the request; nothing is converted, and an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Part):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Part):
    """One message; the fields that a client sends back with an answer of ours are null."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=1000)]
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None
    annotations: Annotated[list[None], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        """The words of the message."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Part):
    """Options of a stream: the parts that it sends beside the words."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


StopText = Annotated[str, Field(min_length=1, max_length=500)]
Tokens = Annotated[int, Field(ge=1, le=10**6)]


class ChatForm(Part):
    """The request of a chat."""

    model: Annotated[str, Field(min_length=1, max_length=500)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=2000)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def most_tokens(self) -> int:
        """The largest length of the answer, tokens."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_TOKENS

    @property
    def heat(self) -> float:
        """The temperature; 0 is greedy, and OpenAI's default is 1."""
        asked = 1.0 if self.temperature is None else float(self.temperature)
        return asked if asked >= GREEDY_BELOW else 0.0

    @property
    def stops(self) -> list[str]:
        """The texts at which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """Return whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def supported(fields: JsonObject) -> JsonObject:
    """Return the fields that ``ChatForm`` reads.

    Raises:
        RequestError: A parameter asks for something that no model here can do; ``param`` names it.
    """
    for name, harmless in UNSUPPORTED.items():
        value = fields.get(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in harmless):
            raise _unsupported(name, f"{name} is not supported here. Leave it away.")
    if fields.get("stream_options") is not None and not fields.get("stream"):
        raise RequestError("stream_options needs stream: true.", param="stream_options")
    _refuse_other_content(fields.get("messages"))
    return {name: value for name, value in fields.items() if name not in UNSUPPORTED and name not in LABELS}


def _refuse_other_content(messages: JsonValue) -> None:
    """Refuse the kinds of messages that OpenAI's form has and that no model here can read, by their place."""
    for number, message in enumerate(messages if isinstance(messages, list) else []):
        if not isinstance(message, dict):
            continue
        if message.get("role") in ("tool", "function"):
            raise _unsupported(f"messages.{number}.role", "answers of tools are not supported here.")
        if message.get("tool_calls") or message.get("function_call"):
            name = "tool_calls" if message.get("tool_calls") else "function_call"
            raise _unsupported(f"messages.{number}.{name}", "calls of tools are not supported here.")
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else []):
            if isinstance(part, dict) and part.get("type") not in ("text", None):
                raise _unsupported(f"messages.{number}.content.{place}.type", "a message has text alone here.")


def _unsupported(param: str, sentence: str) -> RequestError:
    return RequestError(f"{param}: {sentence}", reason="unsupported_parameter", param=param)
