"""Limits the size of one row, so that no row costs more than a few seconds.

A chat template renders the conversation anew for each answer, in order to find the place of the answer. So the cost of
a row grows with the product of its answers and its turns or characters: a row of 3,000 turns in 300 kB took more than
75 s on one core.
"""

from ..files.faults import Fault
from ..files.strict_json import JsonObject
from .row import Example, Message, Preference, Row

MOST_KEYS = 1000
MOST_TURNS = 1000
MOST_RENDERED = 2**29
"""Characters that all renderings of a row may have together."""


def check_keys(row: JsonObject) -> None:
    """Refuse a row with too many keys.

    Raises:
        Fault: ``too_many_keys``, with the number.
    """
    if len(row) > MOST_KEYS:
        reason = f"the row has {len(row):,} keys, and at most {MOST_KEYS:,} are read"
        raise Fault("too_many_keys", reason, "write one example a row")


def check_turns(example: Example) -> None:
    """Refuse a conversation that is too long to be rendered.

    Raises:
        Fault: ``too_many_turns``, with the number.
    """
    turns = len(messages := _messages(example))
    if turns > MOST_TURNS:
        reason = f"the row has {turns:,} turns, and at most {MOST_TURNS:,} are read"
        raise Fault("too_many_turns", reason, "split the conversation into several rows")
    answers = sum(message["role"] == "assistant" for message in messages)
    characters = sum(len(message["content"]) for message in messages)
    if answers > 1 and answers * characters > MOST_RENDERED:
        reason = f"the row has {answers:,} answers in {characters:,} characters; their product is too large"
        raise Fault(
            "too_many_turns", f"{reason} (at most {MOST_RENDERED:,})", "split the conversation into several rows"
        )


def _messages(example: Example) -> list[Message]:
    if isinstance(example, Row):
        return example.messages
    if isinstance(example, Preference):
        return [*example.prompt, *example.chosen, *example.rejected]
    return [*example.prompt, *example.completion]
