"""Reads tools and tool calls, and links each call with its answer.

This module checks them, because a template would render almost anything: arguments are a JSON object, each call has its
answer before the conversation goes on, each answer has its call. The deprecated ``functions`` and ``function_call``
become tools and tool calls.
"""

import json
from collections.abc import Sequence

from ..files.faults import Fault, Where
from ..files.strict_json import JsonObject, JsonValue, parse, parse_value
from .fields import fields, items, kind
from .row import Message, Tool, ToolCall

CALL_EXAMPLE = '{"id": …, "type": "function", "function": {"name": …, "arguments": "{…}"}}'
TOOL_EXAMPLE = '{"type": "function", "function": {"name": …, "parameters": {…}}}'


def read_written_calls(words: str, at: Where, name: str) -> list[ToolCall]:
    """Reads the calls that a ShareGPT turn writes as JSON text."""
    try:
        calls = parse_value(words)
    except Fault as fault:
        reason = f"the function call of {name} is no JSON ({fault.reason})"
        raise Fault("bad_call", reason, 'write {"name": …, "arguments": {…}}', at=at) from None
    return [_call(call, at, name) for call in (calls if isinstance(calls, list) else [calls])]


def read_calls(given: JsonObject, at: Where, name: str) -> list[ToolCall]:
    """Reads the calls of an assistant's message."""
    if given.get("function_call"):
        if given.get("tool_calls"):
            raise Fault("bad_call", f"{name} has tool_calls and function_call", "keep tool_calls", at=at)
        return [_call(given["function_call"], (*at, "function_call"), name)]
    where: Where = (*at, "tool_calls")
    found = given.get("tool_calls") or []
    return [
        _call(call, (*where, number), name)
        for number, call in enumerate(items(found, where, f"tool_calls of {name}", fault="bad_call", example="a list"))
    ]


def _call(found: JsonValue, at: Where, name: str) -> ToolCall:
    """Reads a call as OpenAI writes it; also bare ``{"name", "arguments"}``."""
    call = fields(found, at, f"a call of {name}", fault="bad_call", example=CALL_EXAMPLE)
    if call.get("type") not in (None, "function"):
        raise Fault("bad_call", f"a call of {name} has type {call['type']!r}", 'type is "function"', at=at)
    inner = fields(call.get("function", call), at, f"a call of {name}", fault="bad_call", example=CALL_EXAMPLE)
    called = inner.get("name")
    if not isinstance(called, str) or not called:
        raise Fault("bad_call", f"a call of {name} names no function", f"write {CALL_EXAMPLE}", at=at)
    arguments = _arguments(inner.get("arguments"), at, f"{called} in {name}")
    return {"id": call.get("id"), "type": "function", "function": {"name": called, "arguments": arguments}}


def _arguments(found: JsonValue, at: Where, name: str) -> str:
    if isinstance(found, dict):
        return json.dumps(_without_nulls(found), ensure_ascii=False)
    if found is None or not isinstance(found, str):
        reason = f"the arguments of {name} are {kind(found)}"
        raise Fault("bad_arguments", reason, 'write them as JSON text: "{\\"city\\": \\"Lima\\"}"', at=at)
    try:
        parse(found or "{}")
    except Fault as fault:
        reason = f"the arguments of {name} are no JSON object ({fault.reason})"
        raise Fault(
            "bad_arguments", reason, 'write them as json.dumps does: "{\\"city\\": \\"Lima\\"}"', at=at
        ) from None
    return found or "{}"


def link(messages: Sequence[Message], at: Where, tools: Sequence[Tool]) -> None:
    """Gives each call an id and each answer its call, and refuses calls and answers that do not match."""
    if max(map(len, messages), default=0) <= 2:  # noqa: PLR2004  (a message that calls or answers has more keys)
        return
    declared = {tool["function"]["name"] for tool in tools}
    open_calls: dict[str, str] = {}
    made = 0
    for number, message in enumerate(messages):
        where = (*at, number)
        if message["role"] == "tool":
            _answer(message, open_calls, where, f"message {number + 1}")
            continue
        if open_calls:
            _refuse_open(open_calls, where, number)
        for call in message.get("tool_calls", ()):
            called = call["function"]["name"]
            if declared and called not in declared:
                reason = f"message {number + 1} calls {called!r}, which the row's tools don't have"
                raise Fault("unknown_tool", reason, "declare it, or correct the name", at=where)
            if not isinstance(call["id"], str) or not call["id"]:
                made += 1
                call["id"] = f"call_{made}"
            if call["id"] in open_calls:
                reason = f"message {number + 1} uses the id {call['id']!r} twice"
                raise Fault("bad_call", reason, "give each call an id of its own", at=where)
            open_calls[call["id"]] = called
    if open_calls and "tool_calls" not in messages[-1]:
        _refuse_open(open_calls, (*at, len(messages) - 1), len(messages))


def _answer(message: Message, open_calls: dict[str, str], at: Where, name: str) -> None:
    given, called = message["tool_call_id"], message["name"]
    if given is None:
        given = next((key for key, tool in open_calls.items() if called in (None, tool)), None)
    if given not in open_calls:
        of = f"the call {given!r}" if given is not None else "no call"
        raise Fault("no_call", f"{name} is a tool's answer to {of}, which is not open", "put it behind its call", at=at)
    message["tool_call_id"], message["name"] = given, open_calls.pop(given)


def _refuse_open(open_calls: dict[str, str], at: Where, number: int) -> None:
    key, called = next(iter(open_calls.items()))
    reason = f"the call {key!r} of {called!r} has no answer before message {number + 1}"
    raise Fault("no_answer", reason, 'add {"role": "tool", "tool_call_id": …, "content": …}', at=at)


def _without_nulls(value: JsonValue) -> JsonValue:
    """Returns an object without its null fields, which a Parquet file cannot tell from absent ones."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def read_tools(value: JsonObject, turns: str = "") -> list[Tool]:
    """Reads the tools that a row declares, in OpenAI's form; also the deprecated ``functions``, and JSON text.

    Args:
        value: The row.
        turns: The key of its turns; the first turn, the system's, may declare the tools in place of the row.
    """
    key = "tools" if value.get("tools") else "functions"
    found = value.get(key)
    first = value.get(turns)
    system = first[0] if isinstance(first, list) and first else None
    if isinstance(system, dict) and system.get("tools"):
        if found:
            raise Fault("bad_tools", "there are tools in two places", "keep those beside the messages", at=(key,))
        key, found = "tools", system["tools"]
    if isinstance(found, str) and found.strip():
        try:
            found = parse_value(found)
        except Fault as fault:
            reason = f"{key} is text that is no JSON ({fault.reason})"
            raise Fault("bad_tools", reason, f"write [{TOOL_EXAMPLE}]", at=(key,)) from None
    if not found:
        return []
    example = f"[{TOOL_EXAMPLE}]"
    return [
        _tool(tool, (key, number), f"tool {number + 1}")
        for number, tool in enumerate(items(found, (key,), key, fault="bad_tools", example=example))
    ]


def _tool(found: JsonValue, at: Where, name: str) -> Tool:
    tool = fields(found, at, name, fault="bad_tools", example=TOOL_EXAMPLE)
    inner = fields(tool.get("function", tool), at, name, fault="bad_tools", example=TOOL_EXAMPLE)
    if not isinstance(inner.get("name"), str) or not inner["name"]:
        raise Fault("bad_tools", f"{name} has no name", f"write {TOOL_EXAMPLE}", at=at)
    if not isinstance(inner.get("parameters") or {}, dict):
        raise Fault("bad_tools", f"the parameters of {name} are no object", f"write {TOOL_EXAMPLE}", at=at)
    return {"type": "function", "function": _without_nulls(inner)}
