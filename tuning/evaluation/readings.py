"""Reads answers and references in the same way: as whole texts, as words alone, and as tool calls.

References and answers are comparable. The reference of a held-out row is decoded from the trained tokens, and an
answer from the tokens that the model wrote. So a model that writes exactly its trained tokens is right under every
chat template. ``templates/answer_form.py`` defines the words alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..templates.call_form import Call
from ..templates.tokenizer_calls import answer_text

if TYPE_CHECKING:  # services read result rows on machines without the extra train, where there is no numpy
    from ..templates.answer_form import AnswerForm


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer or a reference.

    Attributes:
        text: The whole text without control tokens.
        words: The text without the template's scaffold; never empty where the text is not.
        calls: The tool calls in the text; None where the row has no tools.
    """

    text: str
    words: str
    calls: tuple[Call, ...] | None = None

    @classmethod
    def plain(cls, text: str) -> "Reading":
        """Make the reading of a text that has no scaffold."""
        return cls(text, text)


class Reader:
    """Reads tokens under a template.

    Args:
        tokenizer: The tokenizer that decodes the tokens.
        form: The scaffold that the template writes around an answer.
    """

    def __init__(self, tokenizer: Any, form: "AnswerForm") -> None:
        self._tokenizer, self._form = tokenizer, form

    def read(self, tokens: Sequence[int], *, tools: bool, plain: bool = False) -> Reading:
        """Read the tokens of a row's answer.

        Args:
            tokens: The written tokens, the end token included.
            tools: Whether the row has tools.
            plain: Whether the row is running text, which has no scaffold.
        """
        text = answer_text(self._tokenizer, tokens, self._form.stops)
        if plain:
            return Reading.plain(text)
        whole = str(self._tokenizer.decode(tokens, skip_special_tokens=False))
        return Reading(text, self._form.words(whole), tuple(self._form.calls(whole)) if tools else None)


def tool_scores(reference: Reading, answer: Reading) -> dict[str, float]:
    """Score the calls of an answer against the expected ones, 0 or 1 each; a row without tools has no scores.

    ``tool_name`` and ``tool_arguments`` exist for rows that expect a call. ``tool_name`` is 1 for the right functions
    in the right order, ``tool_arguments`` if the arguments are right as JSON too. ``tool_over`` and ``tool_under``
    exist for all rows with tools: more calls than expected, and fewer.
    """
    if reference.calls is None or answer.calls is None:
        return {}
    wanted, given = reference.calls, answer.calls
    found = {"tool_over": float(len(given) > len(wanted)), "tool_under": float(len(given) < len(wanted))}
    if wanted:
        found["tool_name"] = float([call.name for call in given] == [call.name for call in wanted])
        found["tool_arguments"] = float(list(given) == list(wanted))
    return found
