"""Reads and checks preference rows: a better and a worse answer, or one answer and a label that says if it was wanted.

OpenAI's form, TRL's (text or messages, the prompt given or only the common beginning of both answers), LLaMA-Factory's
``chosen`` and ``rejected`` beside Alpaca's or ShareGPT's keys, TRL's and LLaMA-Factory's unpaired rows.
"""

import os.path
from collections import Counter
from typing import NoReturn

from ..files.faults import Fault, Where
from ..files.strict_json import JsonObject, JsonValue
from .chat import add_system, read_messages
from .fields import as_text, fields, kind, require_words, text
from .row import Message, Preference, Row, Tool, Unpaired
from .sharegpt import read_turns
from .tools import link, read_tools

Messages = list[Message]

SPEAKERS = ("Human:", "Assistant:")
"""Words before the turns of a conversation in one text (Anthropic's hh-rlhf); its two texts differ in the last turn."""


def openai_preference(value: JsonObject, line: int, ignored: Counter[str]) -> Preference:
    """Reads OpenAI's form: one assistant message each; ``preferred_completion`` is an older name."""
    given = fields(value["input"], ("input",), "input", fault="no_messages", example='{"messages": […]}')
    if "messages" not in given:
        raise Fault("missing_key", "input has no 'messages'", 'write {"input": {"messages": […]}, …}', at=("input",))
    tools = read_tools(given)
    prompt, _ = read_messages(given["messages"], ("input", "messages"), ignored, tools=None)
    sides: list[Messages] = []
    for key in ("preferred", "non_preferred"):
        name = f"{key}_output" if f"{key}_output" in value else f"{key}_completion"
        answer, _ = read_messages(value[name], (name,), ignored, tools=None)
        if len(answer) != 1:
            raise Fault("no_messages", f"{name} has {len(answer)} messages", "write one assistant message", at=(name,))
        sides.append(answer)
    names = [key for key in value if "preferred" in key and "non" not in key]
    return _checked(Preference(prompt, sides[0], sides[1], line, tools), (names[0],))


def preference(value: JsonObject, line: int, ignored: Counter[str]) -> Preference:
    """Reads TRL's form, and LLaMA-Factory's."""
    tools = read_tools(value)
    prompt = _prompt(value, ignored)
    chosen, rejected = (_answer(value[key], key, ignored) for key in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise Fault("not_text", "chosen and rejected are of two kinds", "write both as text, or both as messages",
                    at=("rejected",))  # fmt: skip
    if isinstance(chosen, str) or isinstance(rejected, str):
        return _of_texts(prompt, str(chosen), str(rejected), line, tools)
    if prompt is None:
        same = _common(chosen, rejected)
        if any(answer[same:] and answer[same]["role"] != "assistant" for answer in (chosen, rejected)):
            _refuse_prompts()
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    return _checked(Preference(prompt, chosen, rejected, line, tools), ("chosen",))


def unpaired(value: JsonObject, line: int, ignored: Counter[str]) -> Unpaired:
    """Reads TRL's form (``label``) and LLaMA-Factory's (``kto_tag``)."""
    key = "kto_tag" if "kto_tag" in value else "label"
    label = value[key]
    if isinstance(label, str) and label.strip().lower() in ("true", "false"):  # a CSV has no booleans
        label = label.strip().lower() == "true"
    if not isinstance(label, bool):
        fix = "write true or false; or name the key otherwise, if it is no label of the answer"
        raise Fault("bad_label", f"{key} is {kind(label)}, not true or false", fix, at=(key,))
    tools = read_tools(value)
    if "messages" in value or "conversations" in value:
        prompt, name = _prompt(value, ignored) or [], "messages" if "messages" in value else "conversations"
        prompt, answer = prompt[:-1], prompt[-1:]
    else:
        name = "completion" if "completion" in value else "output"
        prompt = _prompt(value, ignored) or []
        found = _answer(value[name], name, ignored)
        answer = [{"role": "assistant", "content": found.strip()}] if isinstance(found, str) else found
    _check_prompt(prompt, (next(iter(value)),))
    _check_answer(answer, (name,))
    link([*prompt, *answer], (name,), tools)
    return Unpaired(prompt, answer, label, line, tools)


def as_rows(example: Preference | Unpaired) -> list[Row]:
    """Converts a preference to rows: its prompt with the better answer and with the worse one, or with the only one.

    Only the answers carry weight. Tokens are then counted and texts searched as in any other row.
    """
    if isinstance(example, Preference):
        answers = [(example.chosen, True), (example.rejected, False)]
    else:
        answers = [(example.completion, example.label)]
    return [
        Row(
            [*example.prompt, *answer],
            [*[0] * len(example.prompt), *(int(message["role"] == "assistant") for message in answer)],
            example.line,
            example.tools,
            wanted=wanted,
        )
        for answer, wanted in answers
    ]


def _prompt(value: JsonObject, ignored: Counter[str]) -> Messages | None:
    """Reads the messages before the answers; None where the row has no prompt of its own."""
    for key, read in (("messages", read_messages), ("prompt", read_messages), ("conversations", read_turns)):
        if isinstance(value.get(key), list):
            messages, weights = read(value[key], (key,), ignored, tools=None)
            add_system(value, messages, weights)
            return messages
    key = "prompt" if "prompt" in value else "instruction"
    if key not in value:
        return None
    parts = [text(value, key), text(value, "input", needed=False) if key == "instruction" else ""]
    asked = "\n\n".join(part.strip() for part in parts if part.strip())
    require_words(asked, (key,), key)
    asks: Messages = [{"role": "user", "content": asked}]
    add_system(value, asks, [0])
    return asks


def _answer(found: JsonValue, key: str, ignored: Counter[str]) -> Messages | str:
    if not isinstance(found, list | dict):
        answer = as_text(found, (key,), key)
        require_words(answer, (key,), key)
        return answer
    turns: list[JsonValue] = [found] if isinstance(found, dict) else found
    sharegpt = bool(turns) and all(isinstance(turn, dict) and "from" in turn for turn in turns)
    return (read_turns if sharegpt else read_messages)(turns, (key,), ignored, tools=None)[0]


def _of_texts(prompt: Messages | None, chosen: str, rejected: str, line: int, tools: list[Tool]) -> Preference:
    if prompt is None:
        same = os.path.commonprefix([chosen, rejected])  # noqa: RUF071  (character by character is intended)
        same = same[: max(same.rfind(" "), same.rfind("\n")) + 1]  # a prompt ends with a whole word
        prompt = [{"role": "user", "content": same.strip()}] if same.strip() else []
        chosen, rejected = chosen[len(same) :], rejected[len(same) :]
        if same.lstrip().startswith(SPEAKERS[0]) and any(f"\n\n{who}" in chosen + rejected for who in SPEAKERS):
            _refuse_prompts()
    answers = [[{"role": "assistant", "content": words.strip()}] for words in (chosen, rejected)]
    if not (chosen.strip() and rejected.strip()):
        reason = "one answer is the beginning of the other"
        raise Fault("same_answers", reason, "give the prompt a key of its own", at=("chosen",))
    return _checked(Preference(prompt, answers[0], answers[1], line, tools), ("chosen",))


def _refuse_prompts() -> NoReturn:
    reason = "the prompts of the two answers differ"
    raise Fault("prompts_differ", reason, "give both answers the same prompt", at=("rejected",))


def _common(chosen: Messages, rejected: Messages) -> int:
    same = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        same += 1
    return same


def _checked(row: Preference, at: Where) -> Preference:
    prompt, chosen, rejected = row.prompt, row.chosen, row.rejected
    if chosen == rejected:
        raise Fault("same_answers", "the better and the worse answer are the same", "leave the row out", at=at)
    _check_prompt(prompt, at)
    for answer in (chosen, rejected):
        _check_answer(answer, at)
        link([*prompt, *answer], at, row.tools)
    return row


def _check_prompt(prompt: Messages, at: Where) -> None:
    roles = [message["role"] for message in prompt]
    if "system" in roles[1:]:
        raise Fault("system_not_first", "a system message stands inside the prompt", "put it first", at=at)
    if roles and roles[-1] not in ("user", "tool"):
        reason = f"the prompt ends with the {roles[-1]}'s message"
        raise Fault("no_user", reason, "end it with what the answers answer", at=at)


def _check_answer(answer: Messages, at: Where) -> None:
    roles = [message["role"] for message in answer]
    if not roles:
        raise Fault("no_assistant", f"{at[-1]} has no message", "write the assistant's answer", at=at)
    if roles[0] != "assistant" or roles[-1] != "assistant":
        reason = f"an answer begins with the {roles[0]}'s and ends with the {roles[-1]}'s message"
        raise Fault("no_assistant", reason, "begin and end it with the assistant's", at=at)
