"""Conversations: OpenAI's chat messages and ShareGPT's turns, with tools, as canonical messages and weights.

Tool calls are checked here, because a template would render almost anything: arguments are a JSON object, each call has
its answer before the conversation goes on, each answer has its call. The deprecated ``functions`` and ``function_call``
become tools and tool calls.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from .faults import Fault, Where
from .fields import as_text, count_keys, fields, items, kind, require_words
from .rows import Message, Row, Said, Turns
from .strict_json import has_keys, parse, parse_value, quick

ROLES = ("system", "user", "assistant", "tool")
ROLE_SYNONYMS = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "ipython": "tool",
}
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
TURN_KEYS = frozenset({"role", "content", "weight", "tool_calls", "function_call", "tool_call_id", "name", "refusal"})
_USUAL_WEIGHTS = {"system": 0, "user": 0, "assistant": 1}
SHAREGPT_KEYS = frozenset({"from", "value", "weight"})
KEPT_ORDERS = 1000
_GOOD_ORDERS: set[tuple[Any, ...]] = set()
"""Roles and weights that were looked at and found good; most files have a handful."""
_USUAL_TURNS: dict[tuple[str, ...], Turns] = {}
"""Of these, the roles whose weights are the usual ones."""

CALL_EXAMPLE = '{"id": …, "type": "function", "function": {"name": …, "arguments": "{…}"}}'
TOOL_EXAMPLE = '{"type": "function", "function": {"name": …, "parameters": {…}}}'


def chat_row(value: dict[str, Any], line: int, ignored: Counter[str]) -> Row:
    """An OpenAI chat row."""
    tools = read_tools(value)
    messages, weights = read_messages(value["messages"], ("messages",), ignored, tools=tools)
    check_order(messages, weights, ("messages",))
    return Row(messages, weights, line, tools)


def usual_chat(raw: bytes) -> Said | None:
    """Roles, weights and words of a chat row as nearly all are written; None where it takes more than a look.

    What it gives, ``chat_row`` would give too.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    value = quick(text)
    turns = value.get("messages") if isinstance(value, dict) and len(value) == 1 else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]
    if not isinstance(turns, list) or not has_keys(text, 1 + 2 * len(cast("list[Any]", turns))):
        return None
    roles: list[str] = []
    words: list[str] = []
    try:
        for turn in cast("list[Any]", turns):
            if len(turn) != 2:  # noqa: PLR2004  (role and content)
                return None
            roles.append(turn["role"])
            words.append(turn["content"])
        order = tuple(roles)
        known = _USUAL_TURNS.get(order) or _usual_turns(order)
    except (KeyError, TypeError):  # no object of a role and words, or a role that is none
        return None
    for said in words:
        if type(said) is not str or not said or said.isspace():
            return None
    return (known, words) if known else None


def _usual_turns(roles: tuple[str, ...]) -> Turns | None:
    """Roles and the weights they usually have; None where such an order was not found good before."""
    weights = tuple(_USUAL_WEIGHTS.get(role, -1) for role in roles)
    if (*roles, *weights) not in _GOOD_ORDERS:
        return None
    if len(_USUAL_TURNS) < KEPT_ORDERS:
        _USUAL_TURNS[roles] = roles, weights
    return roles, weights


def sharegpt_row(value: dict[str, Any], line: int, ignored: Counter[str]) -> Row:
    """A ShareGPT row; a system text beside the turns comes first."""
    tools = read_tools(value)
    at: Where = ("conversations",)
    messages, weights = read_turns(value["conversations"], at, ignored, tools=tools)
    system = value.get("system")
    if system is not None and as_text(system, ("system",), "system").strip():
        if messages and messages[0]["role"] == "system":
            raise Fault("system_not_first", "there are two system texts", "keep one of them", at=("system",))
        messages.insert(0, {"role": "system", "content": system})
        weights.insert(0, 0)
    check_order(messages, weights, at)
    return Row(messages, weights, line, tools)


def read_messages(
    found: object, at: Where, ignored: Counter[str], *, tools: Sequence[dict[str, Any]] | None = ()
) -> tuple[list[Message], list[int]]:
    """OpenAI's messages as canonical ones, and their weights.

    Args:
        found: What should be a list of messages.
        at: The way to it.
        ignored: Counts the keys of messages that are not used.
        tools: What may be called; anything, where there is none. With None, calls and answers are not linked yet.
    """
    messages: list[Message] = []
    weights: list[int] = []
    example = '[{"role": …, "content": …}, …]'
    for number, turn in enumerate(items(found, at, str(at[-1]), fault="no_messages", example=example)):
        if (weight := _usual_weight(turn)) >= 0:
            messages.append({"role": turn["role"], "content": turn["content"]})
            weights.append(weight)
            continue
        message, weight = _message(turn, (*at, number), f"message {number + 1}", ignored)
        messages.append(message)
        weights.append(weight)
    if tools is not None:
        link(messages, at, tools)
    return messages, weights


def read_turns(
    found: object, at: Where, ignored: Counter[str], *, tools: Sequence[dict[str, Any]] | None = ()
) -> tuple[list[Message], list[int]]:
    """ShareGPT's turns as canonical messages, and their weights."""
    messages: list[Message] = []
    weights: list[int] = []
    example = '[{"from": …, "value": …}, …]'
    for number, turn in enumerate(items(found, at, str(at[-1]), fault="no_messages", example=example)):
        message, weight = _turn(turn, (*at, number), f"turn {number + 1}", ignored)
        messages.append(message)
        weights.append(weight)
    if tools is not None:
        link(messages, at, tools)
    return messages, weights


def _usual_weight(turn: Any) -> int:
    """The weight of a message of role and words alone, as nearly all are; -1 of any other, which is looked at whole."""
    if not isinstance(turn, dict) or len(cast("Message", turn)) != 2:  # noqa: PLR2004  (role and content)
        return -1
    given = cast("Message", turn)
    words, role = given.get("content"), given.get("role")
    if type(words) is not str or not words or words.isspace() or type(role) is not str:
        return -1
    return _USUAL_WEIGHTS.get(role, -1)


def _message(turn: object, at: Where, name: str, ignored: Counter[str]) -> tuple[Message, int]:
    given = fields(turn, at, name, fault="no_messages", example='{"role": …, "content": …}')
    if not given.keys() <= TURN_KEYS:
        count_keys(ignored, {f"{at[0]}[].{key}" for key in given.keys() - TURN_KEYS})
    role = _role(given, at, name)
    calls = _calls(given, at, name) if role == "assistant" else []
    for key in () if role == "assistant" else ("tool_calls", "function_call"):
        if given.get(key):
            raise Fault("bad_call", f"{name} has {key} on a {role} message", "only an assistant calls", at=(*at, key))
    content = _content(given, at, name, role, may_be_empty=bool(calls))
    message: Message = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = calls
    if role == "tool":
        message |= {"tool_call_id": given.get("tool_call_id"), "name": given.get("name")}
    return message, _weight(given, at, name, role)


def _content(given: dict[str, Any], at: Where, name: str, role: str, *, may_be_empty: bool) -> str:
    where: Where = (*at, "content") if "content" in given else at
    content: object = given.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, (*where, n), name) for n, part in enumerate(cast("list[Any]", content)))
    if content is None and isinstance(given.get("refusal"), str):
        content = given["refusal"]
    if content is None and may_be_empty:
        return ""
    content = as_text(content, where, f"the content of {name}")
    if role not in ("system", "tool") and not may_be_empty:
        require_words(content, where, f"the content of {name} ({role})")
    return content


def _part(part: object, at: Where, name: str) -> str:
    given = fields(part, at, f"a part of {name}", fault="not_text", example='{"type": "text", "text": …}')
    if given.get("type") != "text":
        reason = f"{name} has a part of type {given.get('type')!r}"
        raise Fault("not_text", reason, "only text can be trained on; leave the row out", at=at)
    return as_text(given.get("text"), at, f"a part of {name}")


def _weight(given: dict[str, Any], at: Where, name: str, role: str) -> int:
    weight = given.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1) or role != "assistant"):
        reason = f"{name} has weight {weight!r}" + ("" if role == "assistant" else f" on a {role} message")
        raise Fault("bad_weight", reason, "weight is 0 or 1, on assistant messages only", at=(*at, "weight"))
    return int(role == "assistant" and weight != 0)


def _role(given: dict[str, Any], at: Where, name: str) -> str:
    role = given.get("role")
    if role == "function":
        return "tool"
    if role in ROLES:
        return str(role)
    if role is None:
        raise Fault("unknown_role", f"{name} has no role", f"role is one of {', '.join(ROLES)}", at=at)
    nearest = ROLE_SYNONYMS.get(role) if isinstance(role, str) else None
    fix = f"write {nearest!r}" if nearest else f"role is one of {', '.join(ROLES)}"
    raise Fault("unknown_role", f"{name} has the unknown role {role!r}", fix, at=(*at, "role"))


def _turn(turn: object, at: Where, name: str, ignored: Counter[str]) -> tuple[Message, int]:
    given = fields(turn, at, name, fault="no_messages", example='{"from": …, "value": …}')
    if not given.keys() <= SHAREGPT_KEYS:
        count_keys(ignored, {f"{at[0]}[].{key}" for key in given.keys() - SHAREGPT_KEYS})
    speaker = given.get("from")
    role = SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        known = ", ".join(SHAREGPT_ROLES)
        reason = f"{name} has no from" if speaker is None else f"{name} is from the unknown {speaker!r}"
        fix = f"from is one of {known}; or map yours, for example columns: human=customer"
        raise Fault("unknown_role", reason, fix, at=(*at, "from") if speaker is not None else at)
    where: Where = (*at, "value") if "value" in given else at
    words = as_text(given.get("value"), where, f"the value of {name}")
    weight = _weight(given, at, name, role)
    if speaker == "function_call":
        calls = [_call(call, where, name) for call in _written_calls(words, where, name)]
        return {"role": "assistant", "content": "", "tool_calls": calls}, weight
    if role not in ("system", "tool"):
        require_words(words, where, f"the value of {name} ({speaker})")
    if role == "tool":
        return {"role": role, "content": words, "tool_call_id": None, "name": None}, weight
    return {"role": role, "content": words}, weight


def _written_calls(words: str, at: Where, name: str) -> list[Any]:
    try:
        calls = parse_value(words)
    except Fault as fault:
        reason = f"the function call of {name} is no JSON ({fault.reason})"
        raise Fault("bad_call", reason, 'write {"name": …, "arguments": {…}}', at=at) from None
    return cast("list[Any]", calls) if isinstance(calls, list) else [calls]


def _calls(given: dict[str, Any], at: Where, name: str) -> list[dict[str, Any]]:
    if given.get("function_call"):
        if given.get("tool_calls"):
            raise Fault("bad_call", f"{name} has tool_calls and function_call", "keep tool_calls", at=at)
        return [_call(given["function_call"], (*at, "function_call"), name)]
    where: Where = (*at, "tool_calls")
    found: object = given.get("tool_calls") or []
    return [
        _call(call, (*where, number), name)
        for number, call in enumerate(items(found, where, f"tool_calls of {name}", fault="bad_call", example="a list"))
    ]


def _call(found: object, at: Where, name: str) -> dict[str, Any]:
    """A call as OpenAI writes it; also bare ``{"name", "arguments"}``."""
    call = fields(found, at, f"a call of {name}", fault="bad_call", example=CALL_EXAMPLE)
    if call.get("type") not in (None, "function"):
        raise Fault("bad_call", f"a call of {name} has type {call['type']!r}", 'type is "function"', at=at)
    inner = fields(call.get("function", call), at, f"a call of {name}", fault="bad_call", example=CALL_EXAMPLE)
    called = inner.get("name")
    if not isinstance(called, str) or not called:
        raise Fault("bad_call", f"a call of {name} names no function", f"write {CALL_EXAMPLE}", at=at)
    arguments = _arguments(inner.get("arguments"), at, f"{called} in {name}")
    return {"id": call.get("id"), "type": "function", "function": {"name": called, "arguments": arguments}}


def _arguments(found: object, at: Where, name: str) -> str:
    if isinstance(found, dict):
        return json.dumps(found, ensure_ascii=False)
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


def link(messages: Sequence[Message], at: Where, tools: Sequence[dict[str, Any]]) -> None:
    """Give each call an id and each answer its call, and refuse what does not fit together."""
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


def read_tools(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools that a row declares, as OpenAI writes them; also the deprecated ``functions``, and JSON text."""
    key = "tools" if value.get("tools") else "functions"
    found: object = value.get(key)
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


def _tool(found: object, at: Where, name: str) -> dict[str, Any]:
    tool = fields(found, at, name, fault="bad_tools", example=TOOL_EXAMPLE)
    inner = fields(tool.get("function", tool), at, name, fault="bad_tools", example=TOOL_EXAMPLE)
    if not isinstance(inner.get("name"), str) or not inner["name"]:
        raise Fault("bad_tools", f"{name} has no name", f"write {TOOL_EXAMPLE}", at=at)
    if not isinstance(inner.get("parameters", {}), dict):
        raise Fault("bad_tools", f"the parameters of {name} are no object", f"write {TOOL_EXAMPLE}", at=at)
    return {"type": "function", "function": inner}


def check_order(messages: Sequence[Message], weights: Sequence[int], at: Where) -> None:
    """Refuse a conversation that teaches nothing or that no template takes."""
    roles = [message["role"] for message in messages]
    order = (*roles, *weights)
    if order in _GOOD_ORDERS:
        return
    _check_roles(roles, weights, at)
    if len(_GOOD_ORDERS) < KEPT_ORDERS:
        _GOOD_ORDERS.add(order)


def _check_roles(roles: list[str], weights: Sequence[int], at: Where) -> None:
    if not roles:
        raise Fault("no_messages", f"{at[-1]} is empty", "write at least a user's and an assistant's message", at=at)
    if "assistant" not in roles:
        raise Fault("no_assistant", "there is no assistant message", "add the answer to learn from", at=at)
    if roles[-1] != "assistant":
        raise Fault(
            "last_not_assistant",
            f"the last message is the {roles[-1]}'s, not the assistant's",
            "end with the assistant's answer, or cut the last message",
            at=(*at, len(roles) - 1),
        )
    if "system" in roles[1:]:
        late = roles.index("system", 1)
        raise Fault("system_not_first", f"message {late + 1} is a system message", "put it first, and only one",
                    at=(*at, late))  # fmt: skip
    if "user" not in roles:
        raise Fault("no_user", "there is no user message", "add what the assistant answers", at=at)
    if not any(weights):
        raise Fault("no_weight", "every assistant message has weight 0", "leave the row out, or weigh one", at=at)
