"""Other names for a dataset's columns: ``columns`` says, for a name that celora knows, what the file calls it.

``{"prompt": "question", "completion": "best_answer"}`` renames columns; ``{"from": "speaker", "human": "customer"}``
renames what stands inside a conversation: the keys of a turn, and the speakers. A mapped column also decides between
formats, where a file's own columns fit several.
"""

from collections.abc import Mapping
from typing import Any, cast

from ..settings.errors import SettingsError
from .faults import Fault, Where

TURN_KEYS = frozenset({"role", "content", "from", "value", "weight"})
SPEAKERS = frozenset({"system", "user", "assistant", "tool", "human", "gpt", "function_call", "observation"})
CONVERSATIONS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")


class ColumnNames:
    """What a file calls the columns, turn keys and speakers that celora knows.

    Args:
        columns: Our name to the file's.
        known: The columns that some format has.

    Raises:
        SettingsError: A name is none of ours, or two of ours are the same column.
    """

    def __init__(self, columns: Mapping[str, str], known: frozenset[str]) -> None:
        unknown = sorted(columns.keys() - known - TURN_KEYS - SPEAKERS)
        if unknown:
            raise SettingsError(
                f"columns: {', '.join(map(repr, unknown))} is no name that celora maps.",
                hint="It maps columns, turn keys and speakers: "
                f"{', '.join(sorted(known))}; {', '.join(sorted(TURN_KEYS))}; {', '.join(sorted(SPEAKERS))}.",
            )
        for group in (known, TURN_KEYS, SPEAKERS):
            theirs = [name for ours, name in columns.items() if ours in group]
            if len(set(theirs)) < len(theirs):
                twice = next(name for name in theirs if theirs.count(name) > 1)
                raise SettingsError(f"columns: {twice!r} is mapped twice.", hint="Map each column once.")
        self._columns = {ours: theirs for ours, theirs in columns.items() if ours in known}
        self._keys = {theirs: ours for ours, theirs in columns.items() if ours in TURN_KEYS}
        self._speakers = {theirs: ours for ours, theirs in columns.items() if ours in SPEAKERS}
        self._theirs: dict[str, str] = dict(columns)

    @property
    def renames(self) -> bool:
        """Whether anything has another name than ours."""
        return bool(self._theirs)

    @property
    def mapped(self) -> frozenset[str]:
        """Our names of the columns that are mapped."""
        return frozenset(self._columns)

    def renamed(self, value: dict[str, Any]) -> dict[str, Any]:
        """A row under our names. A mapped column that the row lacks is not there under our name either."""
        if not self._theirs:
            return value
        taken = set(self._columns.values())
        row = {key: item for key, item in value.items() if key not in taken and key not in self._columns}
        row |= {ours: value[theirs] for ours, theirs in self._columns.items() if theirs in value}
        if self._keys or self._speakers:
            for key in CONVERSATIONS:
                if isinstance(row.get(key), list):
                    row[key] = [self._turn(turn) for turn in cast("list[Any]", row[key])]
        return row

    def _turn(self, turn: Any) -> Any:
        if not isinstance(turn, dict):
            return turn
        given = cast("dict[str, Any]", turn)
        renamed = {self._keys.get(key, key): item for key, item in given.items()}
        for key in ("role", "from"):
            speaker = renamed.get(key)
            if isinstance(speaker, str):
                renamed[key] = self._speakers.get(speaker, speaker)
        return renamed

    def located(self, fault: Fault) -> Fault:
        """The same fault with the file's own names on the way to its place."""
        if isinstance(fault.at, tuple) and self._theirs:
            way: Where = tuple(self._theirs.get(step, step) if isinstance(step, str) else step for step in fault.at)
            fault.at = way
        return fault
