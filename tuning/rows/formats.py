"""Lists the row formats by the keys that identify them, and recognises the format of a row.

This module is the table alone. The functions that read the rows are in row_reader.py, so that a program that only
checks a job's ``columns`` loads no reader. A new format is one entry in ``FORMATS`` and one in ``row_reader.CONVERT``.
A row that fits two formats has the format that knows the other's keys too; if neither does, the row is refused.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ...errors import SettingsError
from ..files.faults import Fault
from ..recipe import Method
from .column_names import ColumnNames


@dataclass(frozen=True, slots=True)
class Format:
    """Describes a row format by its keys.

    Attributes:
        name: The name in the receipt.
        required: The keys that identify it.
        optional: The keys that it may have in addition.
        trains: True if its rows are examples to train on; else they are preferences, for another kind of training.
    """

    name: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset()
    trains: bool = True

    @property
    def known(self) -> frozenset[str]:
        """Returns every key that a row of this format may have."""
        return self.required | self.optional

    def covers(self, other: "Format") -> bool:
        """Returns whether every key that identifies the other format is one of this format's keys."""
        return other.required <= self.known


def _keys(*names: str) -> frozenset[str]:
    return frozenset(names)


_TOOLS = _keys("tools", "functions", "parallel_tool_calls")
_SYSTEM = _keys("system", "system_prompt")
_PREFERENCE = _keys("prompt", "instruction", "input", "conversations") | _SYSTEM | _TOOLS

FORMATS: tuple[Format, ...] = (
    Format("alpaca", _keys("instruction", "output"), _keys("input", "history", "text") | _SYSTEM),
    Format("chat", _keys("messages"), _SYSTEM | _TOOLS),
    Format("prompt-completion", _keys("prompt", "completion"), _SYSTEM | _TOOLS),
    Format("prompt-response", _keys("prompt", "response"), _SYSTEM),
    Format("question-answer", _keys("question", "answer"), _SYSTEM),
    Format("question-response", _keys("question", "response"), _SYSTEM),
    Format("instruction-response", _keys("instruction", "response"), _keys("context") | _SYSTEM),
    Format("sharegpt", _keys("conversations"), _SYSTEM | _TOOLS),
    Format("text", _keys("text")),
    Format("openai-preference", _keys("input", "preferred_output", "non_preferred_output"), trains=False),
    Format("openai-preference", _keys("input", "preferred_completion", "non_preferred_completion"), trains=False),
    Format("preference", _keys("chosen", "rejected"), _PREFERENCE, trains=False),
    *(
        Format("unpaired", _keys(*names), _keys("input") | _SYSTEM | _TOOLS, trains=False)
        for names in (
            ("prompt", "completion", "label"),
            ("prompt", "completion", "kto_tag"),
            ("instruction", "output", "kto_tag"),
            ("messages", "label"),
            ("messages", "kto_tag"),
            ("conversations", "label"),
            ("conversations", "kto_tag"),
        )
    ),
)
"""Every format, by its required keys. ``text`` beside Alpaca's keys is the rendered row, as in the first Alpaca."""

UNPAIRED = "unpaired"
"""Name of the format of answers with a label."""

KNOWN_KEYS = frozenset[str]().union(*(known.known for known in FORMATS))


def methods_of(format_name: str, *, trains: bool) -> tuple[Method, ...]:
    """Returns the methods that train on rows of a format, the usual one first."""
    if trains:
        return ("sft",)
    return ("kto",) if format_name == UNPAIRED else ("dpo", "orpo", "kto")


def candidates(names: ColumnNames) -> tuple[Format, ...]:
    """Returns the formats that have every mapped column.

    Raises:
        SettingsError: No format has them all.
    """
    found = tuple(known for known in FORMATS if names.mapped <= known.known)
    if not found:
        raise SettingsError(
            f"columns: {_listed(names.mapped)} belong to no one format.",
            hint="Map the columns of one: " + "; ".join(_listed(known.required) for known in FORMATS) + ".",
        )
    return found


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuses a mapping of columns that no file could have.

    Raises:
        SettingsError: The mapping has an unknown name, one column twice, or columns of no one format.
    """
    candidates(ColumnNames(columns, KNOWN_KEYS))


def recognise(keys: AbstractSet[str], formats: tuple[Format, ...] = FORMATS) -> Format:
    """Returns the one format that a row with these keys has.

    Raises:
        Fault: The keys are those of no format, or of several.
    """
    fitting = [known for known in formats if known.required <= keys]
    found = [one for one in fitting if not any(_better(other, one) for other in fitting)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(known.name for known in found)
        raise Fault("ambiguous", f"the keys fit {names}", "keep the keys of one format, or map them with columns")
    nearest = max(formats, key=lambda known: len(known.required & keys))
    if nearest.required & keys:
        raise Fault(
            "missing_key",
            f"the row has no {_listed(nearest.required - keys)}",
            f"add it, or map yours with columns; {'an' if nearest.name[0] in 'aiou' else 'a'} {nearest.name} row has "
            f"{_listed(nearest.required)}",
        )
    shown = ", ".join(map(repr, list(keys)[:8])) or "none"
    known = "; ".join(dict.fromkeys(_listed(known.required) for known in formats if known.trains))
    fix = f"name the keys as one of: {known}; or map them"
    if any(one.required <= {key.lower() for key in keys} for one in formats):
        fix = "write the keys in lower case, since case matters; or map them with columns"
    raise Fault("unknown_format", f"the keys ({shown}) fit no known format", fix)


def _better(one: Format, other: Format) -> bool:
    return one is not other and one.covers(other) and not other.covers(one)


def _listed(keys: AbstractSet[str]) -> str:
    return " and ".join(repr(key) for key in sorted(keys))
