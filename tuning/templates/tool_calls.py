"""Finds, by trying, the form in which a chat template takes tool calls.

There is no standard: most templates want a call's arguments as an object, some as JSON text; some write a call only
where the message has no content, some only with ids of nine letters (Mistral's). Each form is tried on a small
conversation; a form is right if call, arguments and result come out whole. A template that accepts no form has no
tools.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..rows.row import Message, Row

Tools = Sequence[dict[str, Any]]
Render = Callable[[Sequence[Message], Tools], str | None]
"""A function that renders a conversation; None where the template refuses it."""


@dataclass(frozen=True, slots=True)
class ToolForm:
    """Describes the form in which a template takes calls.

    Attributes:
        objects: True for arguments as objects, False for JSON text.
        no_content: True if a message without words has no content, else empty text. (transformers drops nulls.)
        short_ids: True if ids are nine letters and digits, whatever ids the rows have.
    """

    objects: bool
    no_content: bool
    short_ids: bool

    def written(self, messages: Sequence[Message]) -> list[Message]:
        """Write the messages in this form."""
        done: list[Message] = []
        for message in messages:
            copy = dict(message)
            if "tool_calls" in message:
                copy["tool_calls"] = [self._call(call) for call in message["tool_calls"]]
                if not message["content"] and self.no_content:
                    del copy["content"]
            elif message["role"] == "tool" and self.short_ids:
                copy["tool_call_id"] = short_id(message["tool_call_id"])
            done.append(copy)
        return done

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        function, written_id = call["function"], short_id(call["id"]) if self.short_ids else call["id"]
        arguments = json.loads(function["arguments"]) if self.objects else function["arguments"]
        return {**call, "id": written_id, "function": {**function, "arguments": arguments}}


def short_id(given: str) -> str:
    """Return an id of nine letters and digits, the same for the same id."""
    if re.fullmatch(r"[A-Za-z0-9]{9}", given):
        return given
    return hashlib.blake2b(given.encode(), digest_size=5).hexdigest()[:9]


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """Describes a template's support of tools: if it writes the declared ones, and the form in which it takes calls."""

    declares: bool
    form: ToolForm | None

    def missing(self, row: Row) -> str:
        """Return in words the part of a row's tools that the template can't write; empty where it can write all."""
        if row.tools and not self.declares:
            return "it has no place for the row's tools (our chatml has)"
        if self.form is None and has_calls(row.messages):
            return "it does not write tool calls and their results"
        return ""


def has_calls(messages: Sequence[Message]) -> bool:
    """Return whether there is a tool call or a tool's answer."""
    return any("tool_calls" in message or message["role"] == "tool" for message in messages)


_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "celoraDeclared",
        "description": "celoraDescribed",
        "parameters": {
            "type": "object",
            "properties": {"celoraKey": {"type": "string", "description": "celoraProperty"}},
            "required": ["celoraKey"],
        },
    },
}


def _conversation() -> list[Message]:
    function = {"name": "celoraCalled", "arguments": '{"celoraKey": "celoraValue"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    return [
        {"role": "user", "content": "Question"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "celoraResult", "tool_call_id": "call_1", "name": "celoraCalled"},
        {"role": "assistant", "content": "Answer"},
    ]


def support_of(render: Render) -> ToolSupport:
    """Find the support of tools that a template has."""
    conversation = _conversation()
    plain = render([conversation[0], conversation[-1]], [_TOOL]) or ""
    declares = "celoraDeclared" in plain and "celoraDescribed" in plain
    tools = [_TOOL] if declares else []
    for no_content, objects, short_ids in product((False, True), (True, False), (False, True)):
        form = ToolForm(objects, no_content, short_ids)
        if _whole(render(form.written(conversation), tools) or ""):
            return ToolSupport(declares, form)
    return ToolSupport(declares, None)


def _whole(text: str) -> bool:
    """Return whether call, arguments and result came out, the arguments neither as Python nor as JSON in JSON."""
    said = all(word in text for word in ("celoraCalled", "celoraKey", "celoraValue", "celoraResult"))
    return said and "'celoraKey'" not in text and '\\"celoraKey' not in text
