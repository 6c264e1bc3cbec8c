"""Reads ShareGPT's conversations as canonical messages and weights."""

from collections import Counter
from collections.abc import Sequence

from ..files.faults import Fault, Where
from ..files.strict_json import JsonObject, JsonValue
from .chat import WEIGHT_KEYS, add_system, check_order, count_turn_keys, read_weight
from .fields import as_text, fields, items, require_words
from .row import Message, Row, Tool
from .tools import link, read_tools, read_written_calls

SPEAKER_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
TURN_KEYS = frozenset({"from", "value", "tools", *WEIGHT_KEYS})


def sharegpt_row(value: JsonObject, line: int, ignored: Counter[str]) -> Row:
    """Reads a ShareGPT row; a system text beside the turns comes first."""
    tools = read_tools(value, "conversations")
    at: Where = ("conversations",)
    messages, weights = read_turns(value["conversations"], at, ignored, tools=tools)
    add_system(value, messages, weights)
    check_order(messages, weights, at)
    return Row(messages, weights, line, tools)


def read_turns(
    found: JsonValue, at: Where, ignored: Counter[str], *, tools: Sequence[Tool] | None = ()
) -> tuple[list[Message], list[int]]:
    """Reads ShareGPT's turns as canonical messages, with their weights."""
    messages: list[Message] = []
    weights: list[int] = []
    example = '[{"from": …, "value": …}, …]'
    for number, turn in enumerate(items(found, at, str(at[-1]), fault="no_messages", example=example)):
        message, weight = _turn(turn, (*at, number), f"turn {number + 1}", ignored)
        if "tool_calls" in message and messages and "tool_calls" in messages[-1]:
            _add_calls(messages, weights, message, weight, (*at, number))
            continue
        messages.append(message)
        weights.append(weight)
    if tools is not None:
        link(messages, at, tools)
    return messages, weights


def _add_calls(messages: list[Message], weights: list[int], message: Message, weight: int, at: Where) -> None:
    """Adds the calls of a turn to those of the turn before: consecutive calls belong to one message."""
    if weight != weights[-1]:
        raise Fault("bad_weight", "calls of one message have different weights", "give them the same weight", at=at)
    messages[-1]["tool_calls"] += message["tool_calls"]


def _turn(turn: JsonValue, at: Where, name: str, ignored: Counter[str]) -> tuple[Message, int]:
    given = fields(turn, at, name, fault="no_messages", example='{"from": …, "value": …}')
    count_turn_keys(ignored, given, TURN_KEYS, at)
    speaker = given.get("from")
    role = SPEAKER_ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        known = ", ".join(SPEAKER_ROLES)
        reason = f"{name} has no from" if speaker is None else f"{name} is from the unknown {speaker!r}"
        fix = f"from is one of {known}; or map yours, for example columns: human=customer"
        raise Fault("unknown_role", reason, fix, at=(*at, "from") if speaker is not None else at)
    where: Where = (*at, "value") if "value" in given else at
    words = as_text(given.get("value"), where, f"the value of {name}")
    weight = read_weight(given, at, name, role)
    if speaker == "function_call":
        calls = read_written_calls(words, where, name)
        return {"role": "assistant", "content": "", "tool_calls": calls}, weight
    if role not in ("system", "tool"):
        require_words(words, where, f"the value of {name} ({speaker})")
    if role == "tool":
        return {"role": role, "content": words, "tool_call_id": None, "name": None}, weight
    return {"role": role, "content": words}, weight
