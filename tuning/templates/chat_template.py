"""Renders rows and prompts with the chat template in force, and tokenizes them with the marks of the loss.

The loss covers the text that the model must write after the generation prompt: the assistant's words and the turn's own
end token, in every turn that has weight; of a turn that calls tools, the call as the template writes it. Tools and
their answers carry none. ``turn_spans`` finds the turns, ``loss_masks`` their tokens. Running text is not rendered: all
of it carries loss, the end-of-text token too. Nothing here imports torch or transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import resource_limits
from ..rows.row import Message, Row
from .loss_masks import Encoded, masked
from .prompt_border import PromptBorder
from .tokenizer_calls import (
    TemplateRefusalError,
    added_tokens,
    answer_text,
    backend,
    begins_with_bos,
    render_text,
    token_text,
    untyped,
)
from .tool_calls import ToolSupport, has_calls, support_of
from .training_form import TrainingForm
from .turn_spans import Rendered, TurnFinder
from .turns import asked_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class ChatTemplate:
    """Combines a tokenizer with the template in force.

    Attributes:
        name: ``own`` for the base's, else the name of ours.
        system_role: True if the template has a place for a system message; without it, the system text is put
            before the first user message.
        end_token: Id of the token that ends an assistant's turn; None before the template was probed.
        special_tokens: Ids of all control tokens.
        named_stops: Ids that the base's generation_config names as the end of an answer.
        added_end: An end token that celora added behind the last answer, because the template writes none.
        training: The template that rows are trained in, if it is not that of the prompts in use.
    """

    tokenizer: "PreTrainedTokenizerBase"
    name: str
    system_role: bool = True
    end_token: int | None = None
    warnings: list[str] = field(default_factory=list[str])
    special_tokens: frozenset[int] = frozenset()
    named_stops: frozenset[int] = frozenset()
    added_end: str = ""
    training: TrainingForm | None = None
    _tools: ToolSupport | None = None
    _border: PromptBorder | None = None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        generation_prompt: bool = False,
        form: TrainingForm | None = None,
    ) -> str:
        """Render a conversation as text in transformers' sandbox, with the template in force or with a training form.

        Raises:
            TemplateRefusalError: The template refuses this conversation.
        """
        if not self.system_role:
            messages = system_folded(messages)
        if has_calls(messages) and (calls := self.tool_support.form):
            messages = calls.written(messages)
        with resource_limits.rendering(self.name):
            template = form.text if form else None
            return render_text(self.tokenizer, messages, tools, generation_prompt=generation_prompt, template=template)

    @property
    def tool_support(self) -> ToolSupport:
        """Find the template's support of tools, at the first row that has some."""
        if self._tools is None:
            self._tools = support_of(self._tried)
        return self._tools

    def _tried(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str | None:
        try:
            with resource_limits.rendering(self.name):
                return render_text(self.tokenizer, messages, tools, generation_prompt=False)
        except TemplateRefusalError:
            return None

    def prompt(self, row: Row) -> str:
        """Render the prompt that a user would send: everything before the last trained turn, and the generation prompt.

        For running text the prompt is the first half.
        """
        if row.plain:
            return self._beginning(row.halves[0]) + row.halves[0]
        return self.render(row.messages[: asked_turn(row)], tools=row.tools, generation_prompt=True)

    def _beginning(self, text: str) -> str:
        """Return the begin-of-text token if the tokenizer writes one and the text does not begin with it."""
        bos = str(untyped(self.tokenizer).bos_token or "")
        return bos if bos and not text.startswith(bos) and begins_with_bos(self.tokenizer) else ""

    def _ending(self, text: str) -> str:
        """Return the end-of-text token, unless the text ends with it or with the end of a turn."""
        eos = str(untyped(self.tokenizer).eos_token or "")
        ends = {eos, *(self.token_text(token) for token in self.stop_tokens())} - {""}
        return "" if text.rstrip().endswith(tuple(ends)) else eos

    def rendered(self, row: Row, *, completion_only: bool) -> Rendered:
        """Render a row as text, with the spans that carry loss.

        Raises:
            TemplateRefusalError: The template refuses the row, or hides an answer's words.
        """
        if row.plain:
            text = row.messages[0]["content"]
            return Rendered(self._beginning(text) + text + self._ending(text), None)
        if missing := (row.tools or has_calls(row.messages)) and self.tool_support.missing(row):
            raise TemplateRefusalError(missing)
        turns = self._turns(row)
        return turns.found() if completion_only else turns.whole()

    def _turns(self, row: Row) -> TurnFinder:
        def in_use(messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
            return self.render(messages, tools=row.tools, generation_prompt=generation_prompt)

        def as_trained(messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
            return self.render(messages, tools=row.tools, generation_prompt=generation_prompt, form=self.training)

        return TurnFinder(row, as_trained if self.training else in_use, in_use, added_end=self.added_end)

    @property
    def border(self) -> PromptBorder:
        """Return the tokenization of rows, made at its first use."""
        if self._border is None:
            self._border = PromptBorder(
                backend(self.tokenizer),
                added=frozenset(added_tokens(self.tokenizer)),
                special=self.special_tokens,
                ends=frozenset(self.stop_tokens()),
            )
        return self._border

    def encode(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Tokenize rendered rows as tokens and masks."""
        return [masked(row.ids, row.ranges) for row in self.border.tokenized(rendered)]

    def token_text(self, token: int) -> str:
        """Return a control token as it is written; a normalizer may spell an added one otherwise in its vocabulary."""
        return token_text(self.tokenizer, token)

    def decoded(self, tokens: Sequence[int]) -> str:
        """Decode tokens as answers are decoded: without control tokens, the end and white space at the ends."""
        return answer_text(self.tokenizer, list(tokens), self.stop_tokens())

    def stop_tokens(self) -> list[int]:
        """Return the ids of the tokens that end a generation: of the template, the tokenizer and the base's list."""
        eos: int | None = untyped(self.tokenizer).eos_token_id
        return sorted({token for token in (self.end_token, eos, *self.named_stops) if token is not None})


def system_folded(messages: Sequence[Message]) -> list[Message]:
    """Put the system text before the first user message, for templates without a system role."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    folded = [dict(message) for message in rest]
    for message in folded:
        if message["role"] == "user" and system["content"].strip():
            message["content"] = system["content"] + "\n\n" + message["content"]
            break
    return folded
