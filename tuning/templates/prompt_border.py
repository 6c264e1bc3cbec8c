r"""Keeps the tokens of a prompt apart from those of its answer, where a tokenizer would join the two.

In use a server tokenizes the prompt alone and the model continues those tokens. Training tokenizes prompt and answer as
one text, and there a tokenizer may join the end of the one with the start of the other: ``Assistant: `` and ``Lima``
share the token `` Lima``, and the newline of ``<|im_start|>assistant\n`` joins a newline that the answer begins with.
Such an answer is trained after tokens that no server ever sends.

The last trained answer of a row is therefore tokenized apart from its prompt. An earlier answer can't be: later prompts
hold it as part of one text, and so its border is joined there in use. It carries no loss, and ``turns = each`` trains
it as the last answer of a row of its own.

Only the text from the last control token before the border is compared: tokenizers cut a text at its control tokens
before they join anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .loss_masks import Span, trained_ranges
from .turn_spans import Rendered

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

JOINED = "an answer whose first token the tokenizer joins with the end of its prompt"
"""Reason why an earlier turn of a row carries no loss."""

CARRIERS = ("", "\n")
"""Texts that are put before an answer to tokenize it. Some tokenizers put a space before every text (SentencePiece); of
them a newline takes the space, and its own tokens are cut off."""
_KEPT_TAILS = 4096
_LONGEST_KEPT_TAIL = 100
"""Prompts mostly end in the same few characters, whose tokens are kept; longer ends differ from row to row."""


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """Holds a row as tokens.

    Attributes:
        ids: The row's tokens.
        ranges: The tokens that carry loss, as ``(first, end)``.
        joined_turns: Number of earlier turns without loss, because their prompt and answer share a token.
        apart: True if the last trained answer was tokenized apart from its prompt.
        shared: True if that was needed and not possible.
    """

    ids: list[int]
    ranges: list[tuple[int, int]]
    joined_turns: int = 0
    apart: bool = False
    shared: bool = False


class PromptBorder:
    """Tokenizes rows so that each trained answer follows the tokens of its prompt in use.

    Args:
        tokenizer: The tokenizers library's object.
        added: Ids of the tokens at which the tokenizer cuts a text first.
        special: Ids of the control tokens.
        ends: Ids of the tokens that may end an assistant's turn.
    """

    def __init__(
        self, tokenizer: "Tokenizer", *, added: frozenset[int], special: frozenset[int], ends: frozenset[int]
    ) -> None:
        self._tokenizer, self._added, self._special, self._ends = tokenizer, added, special, ends
        self._tails: dict[str, list[int]] = {}

    def tokenized(self, rendered: Sequence[Rendered]) -> list[TokenizedRow]:
        """Tokenize rendered rows in one batch (no special tokens are added: the template writes them)."""
        encodings = self._tokenizer.encode_batch([row.text for row in rendered], add_special_tokens=False)
        return [self._row(row, encoding) for row, encoding in zip(rendered, encodings, strict=True)]

    def _row(self, row: Rendered, encoding: "Encoding") -> TokenizedRow:
        ids = encoding.ids
        if not row.spans:
            return self._whole(row, encoding, ids)
        *earlier, last = row.spans
        clean = [span for span in earlier if self._prompt_tokens(row.text, span.start, encoding, ids) is None]
        joined = len(earlier) - len(clean)
        prompt = self._prompt_tokens(row.text, last.start, encoding, ids)
        if prompt is None:
            return TokenizedRow(ids, self._ranges(encoding, ids, row.text, [*clean, last]), joined)
        ranges = self._ranges(encoding, ids, row.text, clean)
        answer = self._answer(row.text, last, prompt, ids)
        if answer is None:
            ranges += self._ranges(encoding, ids, row.text, [last])
            return TokenizedRow(ids, ranges, joined, shared=True)
        written, (first, end) = answer
        return TokenizedRow(
            [*prompt, *written], [*ranges, (len(prompt) + first, len(prompt) + end)], joined, apart=True
        )

    def _whole(self, row: Rendered, encoding: "Encoding", ids: list[int]) -> TokenizedRow:
        """Return a row with loss on everything; its last answer still follows the tokens of its prompt alone."""
        prompt = None if row.border is None else self._prompt_tokens(row.text, row.border, encoding, ids)
        if row.border is None or prompt is None:
            return TokenizedRow(ids, [(0, len(ids))])
        answer = self._answer(row.text, Span(row.border, len(row.text)), prompt, ids)
        if answer is None:
            return TokenizedRow(ids, [(0, len(ids))], shared=True)
        apart = [*prompt, *answer[0]]
        return TokenizedRow(apart, [(0, len(apart))], apart=True)

    def _prompt_tokens(self, text: str, border: int, encoding: "Encoding", ids: Sequence[int]) -> list[int] | None:
        """Return the tokens of the text before a border, read alone; None where the whole text begins with them."""
        at = next((number for number in self._before(text, border, encoding) if ids[number] in self._added), None)
        start = (encoding.token_to_chars(at) or (0, 0))[0] if at is not None else 0
        at = at or 0
        tail = self._tail(text[start:border])
        return None if ids[at : at + len(tail)] == tail else [*ids[:at], *tail]

    @staticmethod
    def _before(text: str, border: int, encoding: "Encoding") -> range:
        """Return the numbers of the tokens that begin before a border, the last one first."""
        chars = range(border, len(text))
        first = next((found for char in chars if (found := encoding.char_to_token(char)) is not None), len(encoding))
        if first < len(encoding) and (encoding.token_to_chars(first) or (border, border))[0] < border:
            first += 1
        return range(first - 1, -1, -1)

    def _tail(self, text: str) -> list[int]:
        kept = self._tails.get(text)
        if kept is None:
            kept = self._tokenizer.encode(text, add_special_tokens=False).ids
            if len(text) <= _LONGEST_KEPT_TAIL and len(self._tails) < _KEPT_TAILS:
                self._tails[text] = kept
        return kept

    def _answer(
        self, text: str, span: Span, prompt: Sequence[int], joined: Sequence[int]
    ) -> tuple[list[int], tuple[int, int]] | None:
        """Return the tokens from the border on and their trained range; None where they do not spell the text."""
        spelled = self._tokenizer.decode(list(joined), skip_special_tokens=False)
        for carrier in CARRIERS:
            behind = carrier + text[span.start :]
            encoding = self._tokenizer.encode(behind, add_special_tokens=False)
            ids, shift = encoding.ids, len(carrier) - span.start
            moved = replace(span, start=len(carrier), end=span.end + shift, words_end=max(span.words_end + shift, 0))
            cut = sum(start < len(carrier) for start, _ in encoding.offsets)
            ((first, end),) = self._ranges(encoding, ids, behind, [moved])
            if self._tokenizer.decode([*prompt, *ids[cut:]], skip_special_tokens=False) == spelled:
                return ids[cut:], (first - cut, end - cut)
        return None

    def _ranges(
        self, encoding: "Encoding", ids: Sequence[int], text: str, spans: Sequence[Span] | None
    ) -> list[tuple[int, int]]:
        return trained_ranges(encoding, ids, text, spans, special=self._special, ends=self._ends)
