"""Renders rows with the chat template, and counts control tokens that stand in their text."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..files.faults import BadLine, BadLines
from ..rows.row import Message, Row
from ..templates.chat_template import ChatTemplate
from ..templates.tokenizer_calls import TemplateRefusalError
from ..templates.turn_spans import Rendered
from .receipt import SetFacts

THOUGHT = "reasoning_content"
MARK = "\ue0a1thought\ue0a2"
NO_PLACE = (
    "it has no place for reasoning_content (thinking): write the reasoning into the content as the model shall write "
    "it, leave it out, or name a template that has a place for it"
)


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """Holds a row as text.

    Attributes:
        row: The row.
        rendered: The row's text and the spans that carry loss.
        prompt: The text of the prompt that a user would send; None where it is not needed.
    """

    row: Row
    rendered: Rendered
    prompt: str | None


class Renderer:
    """Turns rows into text.

    Args:
        template: The template in force.
        completion_only: Loss on the assistant's words only, else on everything.
    """

    def __init__(self, template: ChatTemplate, *, completion_only: bool) -> None:
        self._template, self.completion_only = template, completion_only
        self._control_words = _ControlWords(template)
        self._thoughts = _writes_thoughts(template)

    def render(self, rows: Sequence[Row], *, prompts: int, facts: SetFacts, bad: BadLines) -> list[RenderedRow]:
        """Renders rows; a row that the template refuses becomes a bad line.

        Args:
            rows: The rows.
            prompts: Number of rows, from the first on, whose prompt is needed too.
            facts: Receives the counts.
            bad: Receives the refused lines.
        """
        facts.control_words += self._control_words.count_rows(rows)
        done: list[RenderedRow] = []
        for number, row in enumerate(rows):
            try:
                self._refuse_thoughts(row)
                rendered = self._template.rendered(row, completion_only=self.completion_only)
                prompt = self._template.prompt(row) if number < prompts else None
            except TemplateRefusalError as error:
                reason = f"the base's chat template refuses the row: {str(error).rstrip('.')}"
                fix = "change the row's turns, or name another template"
                bad.add(BadLine(row.line, None, None, "template", reason, fix))
                continue
            done.append(RenderedRow(row, rendered, prompt))
            facts.marked_turns += rendered.marked_turns
            facts.prompt_differs += rendered.prompt_differs
            facts.history_differs += rendered.history_differs
            facts.lost_turns.extend(rendered.lost.values())
            facts.system_folded += not self._template.system_role and row.messages[0]["role"] == "system"
        return done

    def _refuse_thoughts(self, row: Row) -> None:
        """Refuses a row whose reasoning the template would leave out."""
        if not self._thoughts and any(THOUGHT in message for message in row.messages):
            raise TemplateRefusalError(NO_PLACE)


def _writes_thoughts(template: ChatTemplate) -> bool:
    """Returns whether the template writes the reasoning of an answer, tried on a small conversation."""
    thought = dict.fromkeys((THOUGHT, "thinking"), MARK)
    talk: list[Message] = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", **thought}]
    try:
        return MARK in template.rendered(Row(talk, [0, 1], 1), completion_only=False).text
    except TemplateRefusalError:
        return False


class _ControlWords:
    """Counts rows with the base's control tokens as words; the tokenizer would read these words as the tokens."""

    def __init__(self, template: ChatTemplate) -> None:
        words = [template.token_text(number) for number in sorted(template.special_tokens)]
        self._pattern = re.compile("|".join(map(re.escape, words)))

    def count_rows(self, rows: Iterable[Row]) -> int:
        """Counts the rows in which a control token stands as text."""
        texts = ("\0".join(message["content"] for message in row.messages) for row in rows)
        return sum(self._pattern.search(text) is not None for text in texts)
