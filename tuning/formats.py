"""Row formats: what the keys of a dataset's rows mean, and one canonical row for all of them.

The format is found from the keys of *all* rows: a file whose rows are of two formats is refused with the line numbers
of the rarer one. A new format is one entry in ``FORMATS``: the keys that name it and a function that turns a row into
messages. Every bad line of a file is collected; nothing is raised before the whole file was read.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..settings.errors import DataError
from ..storage.manifest import file_sha256
from .lines import BadLine, BadLines, Fault, LineFile, Where

Message = dict[str, str]
"""``role`` (system, user, assistant) and ``content``, as chat templates take them."""

ROLES = ("system", "user", "assistant")
ROLE_SYNONYMS = {"developer": "system", "human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
SHOWN_IN_MESSAGE = 5
KEPT_LINE_NUMBERS = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One example, whatever format it came in.

    Attributes:
        messages: In order; the last one is the assistant's.
        weights: One a message; 1 where the assistant's words carry loss, else 0.
        line: Where it stood in its file, from 1.
    """

    messages: list[Message]
    weights: list[int]
    line: int


@dataclass(frozen=True, slots=True)
class Format:
    """A row format: its name, the keys that name it, the keys that it may have beside, and its reader."""

    name: str
    required: frozenset[str]
    optional: frozenset[str]
    convert: Callable[[dict[str, Any], int], Row]


@dataclass(slots=True)
class DataFile:
    """A dataset file, read and checked line by line.

    Attributes:
        format: Name of the rows' format; empty where no row was good.
        by_format: Rows by format, as their keys say, good or bad.
        ignored_keys: Top-level keys that no format knows, with how many rows have them.
    """

    path: Path
    sha256: str
    size_bytes: int
    format: str = ""
    rows: list[Row] = field(default_factory=list[Row])
    bad: BadLines = field(default_factory=BadLines)
    lines: int = 0
    blank_lines: int = 0
    notes: list[str] = field(default_factory=list[str])
    by_format: Counter[str] = field(default_factory=Counter[str])
    ignored_keys: Counter[str] = field(default_factory=Counter[str])


class BadRowsError(DataError):
    """Lines that cannot be used; ``bad`` keeps the first hundred and counts all."""

    def __init__(self, name: str, bad: BadLines, lines: int) -> None:
        self.bad = bad
        first = "; ".join(map(str, bad.shown[:SHOWN_IN_MESSAGE]))
        more = bad.total - min(len(bad.shown), SHOWN_IN_MESSAGE)
        super().__init__(
            f"{name} has {bad.total} bad {'line' if bad.total == 1 else 'lines'} of {lines}: {first}"
            + (f"; and {more} more." if more else "."),
            hint="; ".join(
                f"{fix[0].upper()}{fix[1:]}" for fix in dict.fromkeys(b.fix for b in bad.shown[:SHOWN_IN_MESSAGE])
            )
            + ".",
        )


def read(path: Path) -> DataFile:
    """Read a dataset file and check every line of it.

    Args:
        path: A ``.jsonl`` or ``.jsonl.gz`` file.

    Returns:
        The good rows in their order, and all that was found out; bad lines are in it, not raised
        (``require_good`` raises).

    Raises:
        DataError: The file is missing, no ``.jsonl``, unreadable or a damaged gzip.
    """
    lines = LineFile(path)
    rows: dict[str, list[Row]] = {}
    by_format: dict[str, list[int]] = {}
    data = DataFile(path=path, sha256="", size_bytes=0)
    for line in lines:
        if isinstance(line, BadLine):
            data.bad.add(line)
            continue
        try:
            known = recognise(line.value)
            data.by_format[known.name] += 1
            numbers = by_format.setdefault(known.name, [])
            if len(numbers) < KEPT_LINE_NUMBERS:
                numbers.append(line.number)
            data.ignored_keys.update(line.value.keys() - known.required - known.optional)
            rows.setdefault(known.name, []).append(known.convert(line.value, line.number))
        except Fault as fault:
            data.bad.add(fault.bad_line(line.number, line.text))
    data.sha256, data.size_bytes = file_sha256(path), path.stat().st_size
    data.lines, data.blank_lines = lines.lines, lines.blank
    data.notes = _notes(lines, data.ignored_keys)
    _one_format(data, rows, by_format)
    return data


def require_good(data: DataFile) -> None:
    """Raise what is wrong with a file that was read.

    Raises:
        BadRowsError: It has bad lines.
        DataError: It has no rows at all.
    """
    if data.bad.total:
        raise BadRowsError(data.path.name, data.bad, data.lines)
    if not data.rows:
        raise DataError(f"{data.path.name} holds no rows.", hint="Write one JSON object a line, and check the path.")


def _notes(lines: LineFile, ignored: Counter[str]) -> list[str]:
    notes: list[str] = []
    if lines.bom:
        notes.append("a byte order mark at the start was skipped")
    if lines.crlf:
        notes.append(f"{lines.crlf} lines end in CR LF, which was taken as LF")
    if lines.blank:
        notes.append(f"{lines.blank} blank lines were skipped")
    if ignored:
        notes.append("keys that are not used: " + ", ".join(f"{key} ({n} rows)" for key, n in ignored.most_common(10)))
    return notes


def _one_format(data: DataFile, rows: dict[str, list[Row]], by_format: dict[str, list[int]]) -> None:
    """Keep the rows of the commonest format; every row of another one is a bad line."""
    if not by_format:
        return
    main, count = data.by_format.most_common(1)[0]
    data.format, data.rows = main, rows.get(main, [])
    for name, numbers in by_format.items():
        if name == main:
            continue
        for number in numbers:
            reason = (
                f"a row of the {name} format in a file whose other {count} rows are {main} (line {by_format[main][0]})"
            )
            data.bad.add(
                BadLine(number, 1, None, "mixed_formats", reason, "put the rows of each format into a file of its own")
            )
        data.bad.counts["mixed_formats"] += data.by_format[name] - len(numbers)
    data.bad.shown.sort(key=lambda bad: bad.line)


def recognise(value: dict[str, Any]) -> Format:
    """The one format whose keys a row has.

    Raises:
        Fault: It has those of none, or of several.
    """
    found = [known for known in FORMATS if known.required <= value.keys()]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(known.name for known in found)
        raise Fault("ambiguous", f"the keys fit {names}", "keep the keys of one format")
    nearest = max(FORMATS, key=lambda known: len(known.required & value.keys()))
    keys = ", ".join(map(repr, list(value)[:8])) or "none"
    if missing := nearest.required - value.keys() if nearest.required & value.keys() else None:
        raise Fault(
            "missing_key",
            f"the row has no {_listed(missing)}",
            f"add it; a {nearest.name} row has {_listed(nearest.required)}",
        )
    known = "; ".join(_listed(known.required) for known in FORMATS)
    raise Fault("unknown_format", f"the keys ({keys}) fit no known format", f"name the keys as one of: {known}")


def _listed(keys: frozenset[str] | set[str]) -> str:
    return " and ".join(repr(key) for key in sorted(keys))


def _text(value: dict[str, Any], key: str, *, needed: bool = True) -> str:
    """A field's text; null and absent are empty text where the field may be left out."""
    text = value.get(key)
    if text is None and not needed:
        return ""
    return _as_text(text, (key,), key)


def _as_text(text: object, at: Where, name: str) -> str:
    if text is None:
        raise Fault("empty", f"{name} is null", "write its text, or leave the row out", at=at)
    if not isinstance(text, str):
        raise Fault("not_text", f"{name} is {_kind(text)}, not text", "write it as text, in quotes", at=at)
    return text


def _kind(value: object) -> str:
    names: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _require_words(text: str, at: Where, name: str) -> None:
    if not text.strip():
        raise Fault("empty", f"{name} is empty", "write its text, or leave the row out", at=at)


def _pair(question: str, answer: str) -> Callable[[dict[str, Any], int], Row]:
    """A reader of two-key rows. White space around both is dropped: it stems from joining them without a template."""

    def convert(value: dict[str, Any], line: int) -> Row:
        asked, answered = _text(value, question), _text(value, answer)
        _require_words(asked, (question,), question)
        _require_words(answered, (answer,), answer)
        return _row([("user", asked.strip()), ("assistant", answered.strip())], line)

    return convert


def _alpaca(value: dict[str, Any], line: int) -> Row:
    instruction, output = _text(value, "instruction"), _text(value, "output")
    given = _text(value, "input", needed=False)
    _require_words(instruction + given, ("instruction",), "instruction")
    _require_words(output, ("output",), "output")
    turns = [("system", system)] if (system := _text(value, "system", needed=False)).strip() else []
    turns += _history(value.get("history"))
    asked = "\n\n".join(part for part in (instruction, given) if part.strip())
    return _row([*turns, ("user", asked), ("assistant", output)], line)


def _history(history: object) -> list[tuple[str, str]]:
    if history is None:
        return []
    if not isinstance(history, list):
        raise Fault("bad_history", f"history is {_kind(history)}", 'write [["question", "answer"], …]', at=("history",))
    turns: list[tuple[str, str]] = []
    for number, pair in enumerate(cast("list[Any]", history)):
        at: Where = ("history", number)
        if not isinstance(pair, list) or len(cast("list[Any]", pair)) != len(("question", "answer")):
            raise Fault("bad_history", f"history entry {number + 1} is no pair", 'write ["question", "answer"]', at=at)
        for index, role in enumerate(("user", "assistant")):
            words = _as_text(cast("list[Any]", pair)[index], (*at, index), f"history entry {number + 1}")
            _require_words(words, (*at, index), f"history entry {number + 1}")
            turns.append((role, words))
    return turns


def _row(turns: Sequence[tuple[str, str]], line: int) -> Row:
    messages = [{"role": role, "content": text} for role, text in turns]
    return Row(messages, [int(role == "assistant") for role, _ in turns], line)


_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")


def _chat(value: dict[str, Any], line: int) -> Row:
    given: object = value["messages"]
    if not isinstance(given, list):
        raise Fault(
            "no_messages", f"messages is {_kind(given)}, not a list", 'write [{"role": …}, …]', at=("messages",)
        )
    turns = cast("list[Any]", given)
    if value.get("tools") or value.get("functions"):
        raise Fault(
            "tools", "the row declares tools", "tool calls are not read yet; leave such rows out", at=("tools",)
        )
    messages: list[Message] = []
    weights: list[int] = []
    for number, turn in enumerate(turns):
        message, weight = _turn(turn, number)
        messages.append(message)
        weights.append(weight)
    _check_order([message["role"] for message in messages], weights)
    return Row(messages, weights, line)


def _turn(turn: object, number: int) -> tuple[Message, int]:
    at: Where = ("messages", number)
    name = f"message {number + 1}"
    if not isinstance(turn, dict):
        raise Fault("no_messages", f"{name} is {_kind(turn)}", 'write {"role": …, "content": …}', at=at)
    fields = cast("dict[str, Any]", turn)
    role = _role(fields, at, name)
    for key in _TOOL_KEYS:
        if fields.get(key):
            raise Fault("tools", f"{name} has {key}", "tool calls are not read yet; leave such rows out", at=(*at, key))
    where: Where = (*at, "content") if "content" in fields else at
    content = _as_text(fields.get("content"), where, f"the content of {name}")
    if role != "system":
        _require_words(content, where, f"the content of {name} ({role})")
    weight = fields.get("weight")
    if weight is not None and (weight not in (0, 1) or role != "assistant"):
        reason = f"{name} has weight {weight!r}" + ("" if role == "assistant" else f" on a {role} message")
        raise Fault("bad_weight", reason, "weight is 0 or 1, on assistant messages only", at=(*at, "weight"))
    return {"role": role, "content": content}, int(role == "assistant" and weight != 0)


def _role(fields: dict[str, Any], at: Where, name: str) -> str:
    role = fields.get("role")
    if role in ROLES:
        return str(role)
    if role is None:
        raise Fault("unknown_role", f"{name} has no role", f"role is one of {', '.join(ROLES)}", at=at)
    if role in ("tool", "function"):
        raise Fault("tools", f"{name} is a {role}'s answer", "tool calls are not read yet; leave such rows out",
                    at=(*at, "role"))  # fmt: skip
    nearest = ROLE_SYNONYMS.get(role) if isinstance(role, str) else None
    fix = f"write {nearest!r}" if nearest else f"role is one of {', '.join(ROLES)}"
    raise Fault("unknown_role", f"{name} has the unknown role {role!r}", fix, at=(*at, "role"))


def _check_order(roles: list[str], weights: list[int]) -> None:
    at: Where = ("messages",)
    if not roles:
        raise Fault("no_messages", "messages is empty", "write at least a user's and an assistant's message", at=at)
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


FORMATS: tuple[Format, ...] = (
    Format("alpaca", frozenset({"instruction", "output"}), frozenset({"input", "system", "history"}), _alpaca),
    Format("chat", frozenset({"messages"}), frozenset({"tools", "functions", "parallel_tool_calls"}), _chat),
    Format("prompt-completion", frozenset({"prompt", "completion"}), frozenset(), _pair("prompt", "completion")),
    Format("question-answer", frozenset({"question", "answer"}), frozenset(), _pair("question", "answer")),
)
"""Every format, by the keys that name it."""
