"""Rows of a question and an answer (Alpaca, prompt and completion, their synonyms), and rows of plain text."""

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from .conversations import check_order, link, read_messages, read_tools
from .faults import Fault, Where
from .fields import as_text, items, kind, require_words, text, words
from .rows import Row


def pair(question: str, answer: str) -> Callable[[dict[str, Any], int, Counter[str]], Row]:
    """A reader of two-key rows. White space around both is dropped: it stems from joining them without a template."""

    def convert(value: dict[str, Any], line: int, _ignored: Counter[str]) -> Row:
        asked, answered = text(value, question), text(value, answer)
        require_words(asked, (question,), question)
        require_words(answered, (answer,), answer)
        asks = {"role": "user", "content": asked.strip()}
        return Row([asks, {"role": "assistant", "content": answered.strip()}], [0, 1], line)

    return convert


_prompt_completion = pair("prompt", "completion")


def completion(value: dict[str, Any], line: int, ignored: Counter[str]) -> Row:
    """Prompt and completion, both as text or both as messages; only the completion's turns carry loss."""
    asked: object = value["prompt"]
    answered: object = value["completion"]
    if isinstance(asked, list) != isinstance(answered, list) and isinstance(asked, list | str):
        reason = f"prompt is {kind(cast('object', asked))} and completion is {kind(answered)}"
        raise Fault("not_text", reason, "write both as text, or both as messages", at=("completion",))
    if not isinstance(asked, list):
        return _prompt_completion(value, line, ignored)
    tools = read_tools(value)
    before, _ = read_messages(cast("list[Any]", asked), ("prompt",), ignored, tools=None)
    after, weights = read_messages(cast("list[Any]", answered), ("completion",), ignored, tools=None)
    messages, weights = [*before, *after], [*[0] * len(before), *weights]
    link(messages, ("completion",), tools)
    if not after or after[0]["role"] != "assistant":
        reason = "the completion does not begin with the assistant's message"
        raise Fault("no_assistant", reason, "put what comes before it into the prompt", at=("completion",))
    check_order(messages, weights, ("completion",))
    return Row(messages, weights, line, tools)


def alpaca(value: dict[str, Any], line: int, _ignored: Counter[str]) -> Row:
    """An Alpaca row; ``input`` follows the instruction, ``history`` are earlier turns."""
    instruction, output = text(value, "instruction"), words(value, "output")
    given = text(value, "input", needed=False)
    require_words(instruction + given, ("instruction",), "instruction")
    turns = [("system", system)] if (system := text(value, "system", needed=False)).strip() else []
    turns += _history(value.get("history"))
    asked = "\n\n".join(part for part in (instruction, given) if part.strip())
    turns += [("user", asked), ("assistant", output)]
    messages = [{"role": role, "content": content} for role, content in turns]
    return Row(messages, [int(role == "assistant") for role, _ in turns], line)


def _history(history: object) -> list[tuple[str, str]]:
    if history is None or history == "":
        return []
    turns: list[tuple[str, str]] = []
    example = '[["question", "answer"], …]'
    for number, pair in enumerate(items(history, ("history",), "history", fault="bad_history", example=example)):
        at: Where = ("history", number)
        if not isinstance(pair, list) or len(cast("list[Any]", pair)) != len(("question", "answer")):
            raise Fault("bad_history", f"history entry {number + 1} is no pair", 'write ["question", "answer"]', at=at)
        for index, role in enumerate(("user", "assistant")):
            said = as_text(cast("list[Any]", pair)[index], (*at, index), f"history entry {number + 1}")
            require_words(said, (*at, index), f"history entry {number + 1}")
            turns.append((role, said))
    return turns


def plain_text(value: dict[str, Any], line: int, _ignored: Counter[str]) -> Row:
    """Running text, all of which carries loss."""
    return Row([{"role": "assistant", "content": words(value, "text")}], [1], line, plain=True)
