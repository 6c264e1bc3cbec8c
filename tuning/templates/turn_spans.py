"""Finds the assistant's turns of a rendered row, and judges which of them may carry loss.

A turn is found by rendering the conversation turn by turn: the text up to the turn with the generation prompt, and the
text through the turn, must both begin the whole text. Templates that render an earlier turn differently once later ones
follow (Qwen 3 drops its think block, Mistral moves the system text) break that; then the turn's words are found by
rendering once more with a mark in their place.

A turn carries no loss if its own words (thoughts, calls and their arguments included) are not in its span, because the
model would learn to leave them out, or if it does not follow the opening that the generation prompt has in use.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..rows.row import Message, Row
from .loss_masks import Span
from .prompt_in_use import behind_prompt
from .tokenizer_calls import TemplateRefusalError
from .trained_words import own_words
from .turns import asked_turn

OTHER_OPENING = "the end of the generation prompt before an answer"
"""The part that is left out of a turn which does not begin as in use; ``trained_words`` names the other parts."""

_MARK = "\ue0a1celora\ue0a2"
_THINK_END = "</think>"
_PROMPT_END = 8
"""Characters by which the end of a prompt is recognised in a row whose history is written otherwise."""


class Render(Protocol):
    """Renders messages of a row; raises TemplateRefusalError where the template refuses them."""

    def __call__(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """Return the text of messages, with the generation prompt if that is asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """Holds a row as text.

    Attributes:
        spans: The spans that carry loss; None for the whole text.
        marked_turns: Number of turns that had to be found by their mark.
        prompt_differs: True if a turn does not begin where the generation prompt ends that users will get.
        history_differs: True if a turn follows earlier answers that stand in the prompt in use otherwise.
        lost: For each turn without loss, the words of the row that the template leaves out there.
        trained_turns: For each span, the number of its message.
        border: Where the last answer begins in a text that carries loss everywhere; None where it can't be told.
    """

    text: str
    spans: list[Span] | None
    marked_turns: int = 0
    prompt_differs: bool = False
    history_differs: bool = False
    lost: dict[int, str] = field(default_factory=dict[int, str])
    trained_turns: list[int] = field(default_factory=list[int])
    border: int | None = None


@dataclass(slots=True)
class _Conversation:
    """Renders the beginnings of a row, each of them once."""

    row: Row
    render: Render
    _texts: dict[tuple[int, bool], str | None] = field(default_factory=dict[tuple[int, bool], str | None])

    def through(self, number: int) -> str | None:
        """Return the text of the messages before a message; None where the template refuses them."""
        return self._text(number, generation_prompt=False)

    def prompt(self, number: int) -> str | None:
        """Return the prompt for a message: the messages before it, and the generation prompt."""
        return self._text(number, generation_prompt=True)

    def _text(self, number: int, *, generation_prompt: bool) -> str | None:
        key = (number, generation_prompt)
        if key not in self._texts:
            try:
                self._texts[key] = self.render(self.row.messages[:number], generation_prompt=generation_prompt)
            except TemplateRefusalError:
                self._texts[key] = None
        return self._texts[key]

    def opens_as_in_use(self, number: int, before: str) -> bool:
        """Return whether the text before an answer ends with the opening of the generation prompt."""
        prompt, asked = self.prompt(number), self.through(number)
        if prompt is None or asked is None or not prompt.startswith(asked):
            return True
        return before.endswith(prompt[len(asked) :])


class TurnFinder:
    """Finds the turns of one row.

    Args:
        row: A conversation.
        as_trained: Renders with the template that the row is trained in.
        in_use: Renders with the template of the prompts in use; often the same one.
        added_end: An end token that celora added behind the last answer.

    Raises:
        TemplateRefusalError: The template refuses the row.
    """

    def __init__(self, row: Row, as_trained: Render, in_use: Render, *, added_end: str) -> None:
        self._row, self._added_end, self._render = row, added_end, as_trained
        self._last = len(row.messages) - 1
        self._trained = _Conversation(row, as_trained)
        self._same = in_use is as_trained
        self._used = self._trained if self._same else _Conversation(row, in_use)
        self._as_written = as_trained(row.messages)
        self._behind = self._behind_prompt()
        self.text = self._as_written if self._behind is None else self._behind[0]

    def found(self) -> Rendered:
        """Return the row with the spans of its trained turns.

        Raises:
            TemplateRefusalError: No turn is left that may carry loss, or a turn can't be found.
        """
        spans, numbers, lost = list[Span](), list[int](), dict[int, str]()
        marked, differs, history = 0, False, False
        for number in (number for number, weight in enumerate(self._row.weights) if weight):
            span, by_mark = self._span(number)
            before, written = self.text[: span.start], self.text[span.start : span.end]
            words = own_words(self._row.messages[number])
            if missing := self._other_opening(number, before, by_mark=by_mark) or words.missing(written):
                lost[number] = missing
                continue
            prompt = self._used.prompt(number)
            another = prompt is None or not before.startswith(prompt)
            marked += by_mark
            differs, history = differs or (another and by_mark and self._same), history or (another and not self._same)
            spans.append(replace(span, words_end=span.start + words.end_in(written)))
            numbers.append(number)
        if not spans:
            raise TemplateRefusalError(f"it leaves out {next(iter(lost.values()))}")
        return Rendered(self.text, spans, marked, differs, history, lost, numbers)

    def whole(self) -> Rendered:
        """Return the row with loss on all of its text, and the words that are nowhere in it for each turn with weight.

        The last answer's border is kept: a server sends the prompt alone, whatever carries loss.
        """
        turns = [number for number, weight in enumerate(self._row.weights) if weight]
        messages = self._row.messages
        lost = {n: missing for n in turns if (missing := own_words(messages[n]).missing(self.text))}
        border = None
        with suppress(TemplateRefusalError):
            border = self._span(asked_turn(self._row))[0].start
        return Rendered(self.text, None, lost=lost, border=border)

    def _other_opening(self, number: int, before: str, *, by_mark: bool) -> str:
        """Return the reason if a turn does not follow the opening in use; the last one of a row is only noted."""
        judged = not self._same or (by_mark and number != self._last)
        return OTHER_OPENING if judged and not self._used.opens_as_in_use(number, before) else ""

    def _behind_prompt(self) -> tuple[str, Span] | None:
        """Put the row's last answer after the prompt in use; None where it is there already, or can't be put there."""
        if not self._row.weights[self._last]:
            return None
        prompt = self._trained.prompt(self._last)
        if prompt is None or self._as_written.startswith(prompt):
            return None
        moved = behind_prompt(self._as_written, prompt, own_words(self._row.messages[self._last]).thoughts)
        return (moved, Span(len(prompt), len(moved))) if moved is not None else None

    def _span(self, number: int) -> tuple[Span, bool]:
        """Return the span of a turn, and whether the turn had to be found by its mark."""
        if self._behind is not None and number == self._last:
            return self._behind[1], False
        span = self._by_prefix(number)
        return (span, False) if span is not None else (self._by_mark(number), True)

    def _by_prefix(self, number: int) -> Span | None:
        earlier = number != self._last
        prompt, through = self._trained.prompt(number), self._trained.through(number + 1) if earlier else self.text
        if prompt is None or through is None:
            return None
        if self._added_end and earlier:
            through = through.removesuffix(self._added_end)
        if self.text.startswith(through) and through.startswith(prompt):
            return Span(len(prompt), len(through), with_end_token=bool(self._added_end) and earlier)
        return None

    def _by_mark(self, number: int) -> Span:
        if "tool_calls" in self._row.messages[number]:
            return self._span_of_calls(number)
        words, text = self._row.messages[number]["content"], self._as_written
        marked = [dict(message) for message in self._row.messages]
        marked[number]["content"] = _MARK
        before, found, after = self._render(marked).partition(_MARK)
        answer = words.split(_THINK_END)[-1]
        trimmed = (words.strip(), words.rstrip(), words.lstrip())
        for form in dict.fromkeys((words, *trimmed, answer, answer.lstrip("\n"), answer.strip())):
            if found and text == before + form + after:
                return Span(self._opened(number, before), len(before) + len(form), with_end_token=True)
        raise TemplateRefusalError(f"message {number + 1} is rewritten, so that its words can't be told from the rest")

    def _opened(self, number: int, before: str) -> int:
        """Return where an answer begins: after the opening of the generation prompt, before the template's own marks.

        Example:
            gpt-oss opens with ``<|start|>assistant``, and the model writes ``<|channel|>final<|message|>`` itself.
        """
        prompt, asked = self._trained.prompt(number), self._trained.through(number)
        if prompt is None or asked is None or not prompt.startswith(asked):
            return len(before)
        opening = prompt[len(asked) :]
        if not opening.strip():  # (Mistral has none, and writes a space before an answer)
            bare = before.rstrip()
            return len(bare) if bare.endswith(prompt[-_PROMPT_END:]) else len(before)
        at = before.rfind(opening, len(asked)) if before.startswith(asked) else -1
        return at + len(opening) if at >= 0 else len(before)

    def _span_of_calls(self, number: int) -> Span:
        """Find the span in the place of an answer in words; refuse a template that puts tools' answers there too."""
        text = self._as_written
        marked = [dict(message) for message in self._row.messages]
        marked[number] = {"role": "assistant", "content": _MARK}
        answers = 0
        for message in marked[number + 1 :]:
            if message["role"] != "tool":
                break
            message["content"] = f"{_MARK}{answers}"
            answers += 1
        with suppress(TemplateRefusalError):
            plain = [*marked[: number + 1], *self._row.messages[number + 1 :]]
            before, found, after = self._render(plain).partition(_MARK)
            start = before if text.startswith(before) else before.rstrip()
            follows = self._render(marked).partition(_MARK)[2]
            if found and text.startswith(start) and text.endswith(after) and follows.count(_MARK) == answers:
                return Span(len(start), len(text) - len(after), with_end_token=True)
        raise TemplateRefusalError(f"the tool call of message {number + 1} can't be told from what stands around it")
