"""Renames a dataset's columns: ``columns`` maps a name that celora knows to the file's own name.

``{"prompt": "question", "completion": "best_answer"}`` renames columns; ``{"from": "speaker", "human": "customer"}``
renames the keys of a turn and the speakers inside a conversation. A mapped column also decides between
formats, where a file's own columns fit several.
"""

from collections.abc import Mapping

from ...errors import SettingsError
from ..files.faults import Fault, Where
from ..files.strict_json import JsonObject, JsonValue

TURN_KEYS = frozenset({"role", "content", "from", "value", "weight"})
SPEAKERS = frozenset({"system", "user", "assistant", "tool", "human", "gpt", "function_call", "observation"})
CONVERSATIONS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")


class ColumnNames:
    """Maps the columns, turn keys and speakers that celora knows to the file's own names.

    Args:
        columns: Our name to the file's.
        known: The columns that some format has.

    Raises:
        SettingsError: A name is none of ours, or two of ours map to the same column.
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
    def mapped(self) -> frozenset[str]:
        """Returns our names of the columns that are mapped."""
        return frozenset(self._columns)

    def renamed(self, value: JsonObject) -> JsonObject:
        """Returns a row under our names. A mapped column that the row lacks is absent under our name too."""
        if not self._theirs:
            return value
        taken = set(self._columns.values())
        row = {key: item for key, item in value.items() if key not in taken and key not in self._columns}
        row |= {ours: value[theirs] for ours, theirs in self._columns.items() if theirs in value}
        if self._keys or self._speakers:
            for key in CONVERSATIONS:
                turns = row.get(key)
                if isinstance(turns, list):
                    row[key] = [self._turn(turn) for turn in turns]
        return row

    def _turn(self, turn: JsonValue) -> JsonValue:
        if not isinstance(turn, dict):
            return turn
        renamed = {self._keys.get(key, key): item for key, item in turn.items()}
        for key in ("role", "from"):
            speaker = renamed.get(key)
            if isinstance(speaker, str):
                renamed[key] = self._speakers.get(speaker, speaker)
        return renamed

    def located(self, fault: Fault) -> Fault:
        """Returns the same fault with the file's own names in its path."""
        way: Where = tuple(self._theirs.get(step, step) if isinstance(step, str) else step for step in fault.at)
        fault.at = way
        return fault
