"""Reads OpenAI's chat messages as canonical messages and weights."""

from collections import Counter
from collections.abc import Sequence

from ..files.faults import Fault, Where
from ..files.strict_json import JsonObject, JsonValue
from .fields import as_text, count_keys, fields, items, require_words
from .keys import refuse_keys
from .row import Message, Row, Tool
from .tools import link, read_calls, read_tools

ROLES = ("system", "user", "assistant", "tool")
READ_AS = {"developer": "system", "function": "tool"}
ROLE_SYNONYMS = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "prompter": "user",
    "ai": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    **{role: role for role in ROLES},
}
WEIGHT_KEYS = ("weight", "loss", "train", "training", "loss_weight")
"""``weight`` is OpenAI's, ``loss`` ms-swift's and GLM's, ``train`` and ``training`` axolotl's, ``loss_weight``
LLaMA-Factory's."""
THOUGHT_KEYS = ("reasoning_content", "thinking")
"""Keys under which templates read the reasoning before an answer."""
READ_THOUGHT_KEYS = (*THOUGHT_KEYS, "reasoning")
"""Keys of that reasoning in rows; ``reasoning`` is OpenRouter's and vLLM's."""
TEXT_PARTS = (None, "text", "input_text", "output_text")
"""Types of parts that are text: Bedrock's parts have no type, OpenAI's Responses have two."""
OTHER_PARTS = {
    "thinking": "write it as reasoning_content beside the content",
    "reasoning": "write it as reasoning_content beside the content",
    "tool_use": "write it as tool_calls beside the content",
    "tool_result": "write it as a message of the role tool",
}
"""Types of parts that have a place of their own in a message."""
SYSTEM_KEYS = ("system", "system_prompt")
TURN_KEYS = frozenset(
    {"role", "content", "tool_calls", "function_call", "tool_call_id", "name", "refusal", "tools"}
    | {*WEIGHT_KEYS, *READ_THOUGHT_KEYS}
)


def chat_row(value: JsonObject, line: int, ignored: Counter[str]) -> Row:
    """Reads an OpenAI chat row."""
    tools = read_tools(value, "messages")
    messages, weights = read_messages(value["messages"], ("messages",), ignored, tools=tools)
    add_system(value, messages, weights)
    check_order(messages, weights, ("messages",))
    return Row(messages, weights, line, tools)


def add_system(value: JsonObject, messages: list[Message], weights: list[int]) -> None:
    """Puts the system text that stands beside the turns of a row before the turns.

    Raises:
        Fault: There are two system texts.
    """
    for key in SYSTEM_KEYS:
        system = value.get(key)
        if isinstance(system, list):
            system = "".join(_part(part, (key, number), key) for number, part in enumerate(system))
        if system is None or not as_text(system, (key,), key).strip():
            continue
        if messages and messages[0]["role"] == "system":
            raise Fault("system_not_first", "there are two system texts", "keep one of them", at=(key,))
        messages.insert(0, {"role": "system", "content": system})
        weights.insert(0, 0)


def read_messages(
    found: JsonValue, at: Where, ignored: Counter[str], *, tools: Sequence[Tool] | None = ()
) -> tuple[list[Message], list[int]]:
    """Reads OpenAI's messages as canonical messages, with their weights.

    Args:
        found: The value that should be a list of messages.
        at: The path to the value.
        ignored: Counts the keys of messages that are not used.
        tools: The tools that may be called; any if the list is empty. With None, calls and answers are not linked yet.
    """
    messages: list[Message] = []
    weights: list[int] = []
    example = '[{"role": …, "content": …}, …]'
    for number, turn in enumerate(items(found, at, str(at[-1]), fault="no_messages", example=example)):
        message, weight = _message(turn, (*at, number), f"message {number + 1}", ignored)
        messages.append(message)
        weights.append(weight)
    if tools is not None:
        link(messages, at, tools)
    return messages, weights


def _message(turn: JsonValue, at: Where, name: str, ignored: Counter[str]) -> tuple[Message, int]:
    given = fields(turn, at, name, fault="no_messages", example='{"role": …, "content": …}')
    count_turn_keys(ignored, given, TURN_KEYS, at)
    role = _role(given, at, name)
    if given.get("tools") and role != "system":
        reason = f"{name} has tools on a {role} message"
        raise Fault("bad_tools", reason, "put them beside the messages", at=(*at, "tools"))
    calls = read_calls(given, at, name) if role == "assistant" else []
    for key in () if role == "assistant" else ("tool_calls", "function_call"):
        if given.get(key):
            raise Fault("bad_call", f"{name} has {key} on a {role} message", "only an assistant calls", at=(*at, key))
    content = _content(given, at, name, role, may_be_empty=bool(calls))
    message: Message = {"role": role, "content": content, **_thought(given, at, name, role)}
    if calls:
        message["tool_calls"] = calls
    if role == "tool":
        message |= {"tool_call_id": given.get("tool_call_id"), "name": given.get("name")}
    return message, read_weight(given, at, name, role)


def _content(given: JsonObject, at: Where, name: str, role: str, *, may_be_empty: bool) -> str:
    where: Where = (*at, "content") if "content" in given else at
    content = given.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, (*where, n), name) for n, part in enumerate(content))
    if content is None and isinstance(given.get("refusal"), str):
        content = given["refusal"]
    if content is None and may_be_empty:
        return ""
    content = as_text(content, where, f"the content of {name}")
    if role not in ("system", "tool") and not may_be_empty:
        require_words(content, where, f"the content of {name} ({role})")
    return content


def _part(part: JsonValue, at: Where, name: str) -> str:
    given = fields(part, at, f"a part of {name}", fault="not_text", example='{"type": "text", "text": …}')
    if (type_ := given.get("type")) not in TEXT_PARTS:
        fix = OTHER_PARTS.get(str(type_), "only text can be trained on; leave the row out")
        raise Fault("not_text", f"{name} has a part of type {type_!r}", fix, at=at)
    key = "value" if "value" in given and "text" not in given else "text"  # value is LLaMA-Factory's (v1)
    if key not in given:
        has = ", ".join(map(repr, sorted(given.keys() - {"type"}))) or "nothing else"
        reason = f"a part of {name} has no text (it has {has})"
        raise Fault("not_text", reason, 'write {"type": "text", "text": …}', at=at)
    return as_text(given[key], (*at, key), f"a part of {name}")


def _thought(given: JsonObject, at: Where, name: str, role: str) -> Message:
    """Reads the reasoning before an answer, and returns it under the keys of templates; empty where there is none."""
    found = {key: given[key] for key in READ_THOUGHT_KEYS if given.get(key)}
    if not found:
        return {}
    key, thought = next(iter(found.items()))
    if role != "assistant":
        reason = f"{name} has {key} on a {role} message"
        raise Fault("bad_thought", reason, "only an assistant's message has a thought", at=(*at, key))
    if any(other != thought for other in found.values()):
        reason = f"{name} has two thoughts, {' and '.join(found)}"
        raise Fault("bad_thought", reason, "keep one of them", at=(*at, key))
    return dict.fromkeys(THOUGHT_KEYS, as_text(thought, (*at, key), f"the {key} of {name}"))


def count_turn_keys(ignored: Counter[str], given: JsonObject, known: frozenset[str], at: Where) -> None:
    """Counts the keys of a turn that are not read, and refuses those that would change the turn's meaning."""
    if not given.keys() <= known:
        refuse_keys(given, at)
        count_keys(ignored, {f"{at[0]}[].{key}" for key in given.keys() - known if given[key] is not None})


def read_weight(given: JsonObject, at: Where, name: str, role: str) -> int:
    """Reads the weight of a turn: 1 where an assistant's words carry loss."""
    weights = {key: given[key] for key in WEIGHT_KEYS if given.get(key) is not None}
    for key, weight in weights.items():
        allowed = (0, 1) if role == "assistant" else (0,)
        if weight not in allowed or (key == "weight" and isinstance(weight, bool)):
            reason = f"{name} has {key} {weight!r}" + ("" if role == "assistant" else f" on a {role} message")
            raise Fault("bad_weight", reason, f"{key} is 0 or 1, on assistant messages only", at=(*at, key))
    if len({bool(weight) for weight in weights.values()}) > 1:
        raise Fault("bad_weight", f"{name} has {' and '.join(weights)}, which differ", "keep one of them", at=at)
    return int(role == "assistant" and all(weights.values()))


def _role(given: JsonObject, at: Where, name: str) -> str:
    role = given.get("role")
    if role in ROLES:
        return str(role)
    if isinstance(role, str) and role in READ_AS:
        return READ_AS[role]
    if role is None:
        raise Fault("unknown_role", f"{name} has no role", f"role is one of {', '.join(ROLES)}", at=at)
    nearest = ROLE_SYNONYMS.get(role.lower()) if isinstance(role, str) else None
    fix = f"write {nearest!r}" if nearest else f"role is one of {', '.join(ROLES)}"
    raise Fault("unknown_role", f"{name} has the unknown role {role!r}", fix, at=(*at, "role"))


def check_order(messages: Sequence[Message], weights: Sequence[int], at: Where) -> None:
    """Refuse a conversation that teaches nothing or that no template takes."""
    roles = [message["role"] for message in messages]
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
