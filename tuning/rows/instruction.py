"""Reads rows of a question and an answer (Alpaca, prompt and completion, their synonyms), and rows of plain text."""

from collections import Counter
from collections.abc import Callable

from ..files.faults import Fault, Where
from ..files.strict_json import JsonObject, JsonValue
from .chat import add_system, check_order, read_messages
from .fields import as_text, items, kind, require_words, text, words
from .row import Message, Row
from .tools import link, read_tools


def pair(question: str, answer: str, context: str = "") -> Callable[[JsonObject, int, Counter[str]], Row]:
    """Returns a reader of rows of a question and an answer, with a system text and a context where the row has them.

    The reader drops white space around question and answer: it stems from joining them without a template.
    """

    def convert(value: JsonObject, line: int, _ignored: Counter[str]) -> Row:
        asked, answered = text(value, question), text(value, answer)
        if not asked.strip() and answered.strip():
            fix = 'write its text; a row without a prompt is running text: {"text": …}'
            raise Fault("empty", f"{question} is empty", fix, at=(question,))
        require_words(answered, (answer,), answer)
        given = text(value, context, needed=False) if context else ""
        asks = "\n\n".join(part.strip() for part in (asked, given) if part.strip())
        messages: list[Message] = [{"role": "user", "content": asks}]
        messages.append({"role": "assistant", "content": answered.strip()})
        weights = [0, 1]
        add_system(value, messages, weights)
        return Row(messages, weights, line)

    return convert


_prompt_completion = pair("prompt", "completion")


def completion(value: JsonObject, line: int, ignored: Counter[str]) -> Row:
    """Reads prompt and completion, both as text or both as messages; only the completion's turns carry loss."""
    asked = value["prompt"]
    answered = value["completion"]
    if isinstance(asked, list) != isinstance(answered, list) and isinstance(asked, list | str):
        reason = f"prompt is {kind(asked)} and completion is {kind(answered)}"
        raise Fault("not_text", reason, "write both as text, or both as messages", at=("completion",))
    if not isinstance(asked, list):
        return _prompt_completion(value, line, ignored)
    tools = read_tools(value, "prompt")
    before, _ = read_messages(asked, ("prompt",), ignored, tools=None)
    after, weights = read_messages(answered, ("completion",), ignored, tools=None)
    messages, weights = [*before, *after], [*[0] * len(before), *weights]
    link(messages, ("completion",), tools)
    if not after or after[0]["role"] != "assistant":
        reason = "the completion does not begin with the assistant's message"
        raise Fault("no_assistant", reason, "put what comes before it into the prompt", at=("completion",))
    add_system(value, messages, weights)
    check_order(messages, weights, ("completion",))
    return Row(messages, weights, line, tools)


def alpaca(value: JsonObject, line: int, _ignored: Counter[str]) -> Row:
    """Reads an Alpaca row; ``input`` follows the instruction, ``history`` holds earlier turns."""
    instruction, output = text(value, "instruction"), words(value, "output")
    given = text(value, "input", needed=False)
    require_words(instruction + given, ("instruction",), "instruction")
    turns = _history(value.get("history"))
    asked = "\n\n".join(part for part in (instruction, given) if part.strip())
    turns += [("user", asked), ("assistant", output)]
    messages: list[Message] = [{"role": role, "content": content} for role, content in turns]
    weights = [int(role == "assistant") for role, _ in turns]
    add_system(value, messages, weights)
    return Row(messages, weights, line)


def _history(history: JsonValue) -> list[tuple[str, str]]:
    if history is None or history == "":
        return []
    turns: list[tuple[str, str]] = []
    example = '[["question", "answer"], …]'
    for number, pair in enumerate(items(history, ("history",), "history", fault="bad_history", example=example)):
        at: Where = ("history", number)
        if not isinstance(pair, list) or len(pair) != len(("question", "answer")):
            raise Fault("bad_history", f"history entry {number + 1} is no pair", 'write ["question", "answer"]', at=at)
        for index, role in enumerate(("user", "assistant")):
            said = as_text(pair[index], (*at, index), f"history entry {number + 1}")
            require_words(said, (*at, index), f"history entry {number + 1}")
            turns.append((role, said))
    return turns


def plain_text(value: JsonObject, line: int, _ignored: Counter[str]) -> Row:
    """Reads running text, all of which carries loss."""
    return Row([{"role": "assistant", "content": words(value, "text")}], [1], line, plain=True)
