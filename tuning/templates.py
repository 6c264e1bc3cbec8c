"""Chat templates: a row as the text that the base expects, and which of its tokens carry loss.

Loss is on what the model must write after the generation prompt: the assistant's words and the turn's end token, in
every turn that has weight; of a turn that calls tools, on the call as the template writes it. Tools and their answers
carry none. A turn is found by rendering the conversation turn by turn: the text up to the turn with
the generation prompt, and the text through the turn, must both begin the whole text. Templates that render an earlier
turn differently once later ones follow (Qwen 3 drops its think block, Mistral moves the system text) break that; then
the turn's words are found by rendering once more with a mark in their place. Running text is not rendered: all of it
carries loss, the end-of-text token too. Nothing here imports torch or transformers.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import jinja2

from ..settings.errors import BaseModelError, SettingsError
from . import limits
from .formats import Message, Row
from .masks import Encoded, Span, encoded
from .named_templates import NAMED
from .tools import ToolSupport, calls_written, has_calls, support_of

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_MARK = "\ue0a1celora\ue0a2"
_THINK_END = "</think>"


class TemplateRefusalError(Exception):
    """The template would not render a conversation; its own words say why."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as text.

    Attributes:
        spans: What carries loss; None for all of it.
        marked_turns: Turns that had to be found by their mark.
        prompt_differs: The last turn does not begin with the generation prompt that users will get.
    """

    text: str
    spans: list[Span] | None
    marked_turns: int = 0
    prompt_differs: bool = False


@dataclass(slots=True)
class ChatTemplate:
    """A tokenizer and the template in force.

    Attributes:
        name: ``own`` for the base's, else the name of ours.
        system_role: Whether the template has a place for a system message; where it has none, the system text is put
            before the first user message.
        end_token: Id of the token that ends an assistant's turn; None where there is none.
        special_tokens: Ids of all control tokens.
    """

    tokenizer: "PreTrainedTokenizerBase"
    name: str
    system_role: bool = True
    end_token: int | None = None
    warnings: list[str] = field(default_factory=list[str])
    special_tokens: frozenset[int] = frozenset()
    _tools: ToolSupport | None = None

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[dict[str, Any]] = (), generation_prompt: bool = False
    ) -> str:
        """A conversation as text, rendered in transformers' sandbox.

        Raises:
            TemplateRefusalError: The template does not take this conversation.
        """
        if not self.system_role:
            messages = system_folded(messages)
        if has_calls(messages) and (form := self.tool_support.form):
            messages = form.written(messages)
        return self._raw(messages, tools, generation_prompt=generation_prompt)

    def _raw(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, generation_prompt: bool) -> str:
        with limits.rendering(self.name):
            return _render(self.tokenizer, messages, tools, generation_prompt=generation_prompt)

    @property
    def tool_support(self) -> ToolSupport:
        """What the template does with tools; found out at the first row that has some."""
        if self._tools is None:
            self._tools = support_of(self._tried)
        return self._tools

    def _tried(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str | None:
        try:
            return self._raw(messages, tools, generation_prompt=False)
        except TemplateRefusalError:
            return None

    def prompt(self, row: Row) -> str:
        """What a user's prompt would be: everything before the last assistant's turn, and the generation prompt.

        Of running text it is the first half.
        """
        if row.plain:
            return self._beginning() + row.halves[0]
        last = max(number for number, message in enumerate(row.messages) if message["role"] == "assistant")
        return self.render(row.messages[:last], tools=row.tools, generation_prompt=True)

    def reference(self, row: Row) -> str:
        """What an answer to the prompt is compared with: the last turn's words, its tool calls as they are written."""
        if row.plain:
            return row.halves[1]
        if "tool_calls" not in row.messages[-1]:
            return row.messages[-1]["content"]
        text, prompt = self.render(row.messages, tools=row.tools), self.prompt(row)
        answer = text.removeprefix(prompt).rstrip()
        return answer.removesuffix(self.token_text(self.end_token)) if self.end_token is not None else answer

    def _beginning(self) -> str:
        return str(_untyped(self.tokenizer).bos_token or "") if _begins_with_bos(self.tokenizer) else ""

    def rendered(self, row: Row, *, completion_only: bool) -> Rendered:
        """A row as text, with what carries loss.

        Raises:
            TemplateRefusalError: The template does not take the row, or hides an answer's words.
        """
        if row.plain:
            end = str(_untyped(self.tokenizer).eos_token or "")
            return Rendered(self._beginning() + row.messages[0]["content"] + end, None)
        if missing := (row.tools or has_calls(row.messages)) and self.tool_support.missing(row):
            raise TemplateRefusalError(missing)
        text = self.render(row.messages, tools=row.tools)
        if not calls_written(row, text):
            raise TemplateRefusalError("it leaves out a tool call, or the words beside one")
        if not completion_only:
            return Rendered(text, None)
        spans: list[Span] = []
        marked = 0
        last = len(row.messages) - 1
        for number in (number for number, weight in enumerate(row.weights) if weight):
            span = self._span_by_prefix(row, number, text)
            if span is None:
                span = self._span_by_mark(row, number, text)
                marked += 1
            spans.append(span)
        differs = bool(marked and row.weights[last] and spans[-1].with_end_token)
        return Rendered(text, spans, marked, differs)

    def _span_by_prefix(self, row: Row, number: int, text: str) -> Span | None:
        try:
            prompt = self.render(row.messages[:number], tools=row.tools, generation_prompt=True)
            through = (
                text if number == len(row.messages) - 1 else self.render(row.messages[: number + 1], tools=row.tools)
            )
        except TemplateRefusalError:
            return None
        if text.startswith(through) and through.startswith(prompt):
            return Span(len(prompt), len(through))
        return None

    def _span_by_mark(self, row: Row, number: int, text: str) -> Span:
        if "tool_calls" in row.messages[number]:
            return self._span_of_calls(row, number, text)
        words = row.messages[number]["content"]
        marked = [dict(message) for message in row.messages]
        marked[number]["content"] = _MARK
        before, found, after = self.render(marked, tools=row.tools).partition(_MARK)
        answer = words.split(_THINK_END)[-1]
        for form in dict.fromkeys((words, words.strip(), answer, answer.lstrip("\n"), answer.strip())):
            if found and text == before + form + after:
                return Span(len(before), len(before) + len(form), with_end_token=True)
        raise TemplateRefusalError(f"message {number + 1} is rewritten, so that its words can't be told from the rest")

    def _span_of_calls(self, row: Row, number: int, text: str) -> Span:
        """What stands where an answer in words would; a template that puts tools' answers there too is refused."""
        marked = [dict(message) for message in row.messages]
        marked[number] = {"role": "assistant", "content": _MARK}
        answers = 0
        for message in marked[number + 1 :]:
            if message["role"] != "tool":
                break
            message["content"] = f"{_MARK}{answers}"
            answers += 1
        with suppress(TemplateRefusalError):
            plain = [*marked[: number + 1], *row.messages[number + 1 :]]
            before, found, after = self.render(plain, tools=row.tools).partition(_MARK)
            start = before if text.startswith(before) else before.rstrip()
            follows = self.render(marked, tools=row.tools).partition(_MARK)[2]
            if found and text.startswith(start) and text.endswith(after) and follows.count(_MARK) == answers:
                return Span(len(start), len(text) - len(after), with_end_token=True)
        raise TemplateRefusalError(f"the tool call of message {number + 1} can't be told from what stands around it")

    def encode(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Tokenize rendered rows in one batch (no special tokens are added: the template writes them)."""
        encodings = backend(self.tokenizer).encode_batch([row.text for row in rendered], add_special_tokens=False)
        return [
            encoded(encoding, row.text, row.spans, special=self.special_tokens, end_token=self.end_token)
            for encoding, row in zip(encodings, rendered, strict=True)
        ]

    def source(self) -> tuple[str, "SandboxedEnvironment"]:
        """The template's text, and the sandbox in which transformers renders it."""
        from transformers.utils import chat_template_utils  # noqa: PLC0415  (transformers takes seconds to import)

        text: str = _untyped(self.tokenizer).chat_template
        compile_template = cast("Any", chat_template_utils)._compile_jinja_template  # noqa: SLF001  (the same sandbox)
        return text, compile_template(text).environment

    def token_texts(self) -> dict[str, Any]:
        """The special tokens by the names that templates know them by."""
        return dict(_untyped(self.tokenizer).special_tokens_map)

    def token_text(self, token: int) -> str:
        """A control token as it is written."""
        return str(_untyped(self.tokenizer).convert_ids_to_tokens(token))

    def stop_tokens(self) -> list[int]:
        """Ids of the tokens at which generation ends."""
        eos: int | None = _untyped(self.tokenizer).eos_token_id
        return sorted({token for token in (self.end_token, eos) if token is not None})


def choose(tokenizer: "PreTrainedTokenizerBase", named: str | None = None) -> ChatTemplate:
    """Put a chat template in force: the named one, else the base's own, else ``alpaca``.

    Args:
        tokenizer: Its ``chat_template`` is set to the template in force, so that saving it ships the template.
        named: ``alpaca``, ``chatml`` or None.

    Raises:
        SettingsError: There is no template of that name, or the tokenizer lacks its tokens.
        BaseModelError: The tokenizer or its template can't be used.
    """
    if not tokenizer.is_fast:
        raise BaseModelError(
            "the base's tokenizer has no tokenizer.json, and masks need its offsets.",
            hint="Convert it with AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...).",
        )
    own = _own_template(tokenizer)
    name = named or ("own" if own else next(iter(NAMED)))
    template = ChatTemplate(tokenizer, name, special_tokens=_special_tokens(tokenizer))
    if name != "own":
        tokenizer.chat_template = _named_template(tokenizer, name)
        if own:
            template.warnings.append(f"the base has a chat template of its own; {name} is used in its place, as asked")
    else:
        tokenizer.chat_template = own
        if "strftime_now" in str(own):
            template.warnings.append(
                "the chat template writes the date of the day into each row, so rows prepared on another day differ"
            )
    _probe(template)
    return template


def system_folded(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system text put before the first user message, for templates without a system role."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    folded = [dict(message) for message in rest]
    for message in folded:
        if message["role"] == "user" and system["content"].strip():
            message["content"] = system["content"] + "\n\n" + message["content"]
            break
    return folded


def _own_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    own: str | dict[str, str] | None = _untyped(tokenizer).chat_template
    if isinstance(own, dict):
        if "default" not in own:
            raise BaseModelError(
                f"the base has several chat templates ({', '.join(own)}), and none is called default.",
                hint=f"Name one of ours: template = {' or '.join(NAMED)}.",
            )
        return own["default"]
    return own or None


def _named_template(tokenizer: "PreTrainedTokenizerBase", name: str) -> str:
    if name not in NAMED:
        raise SettingsError(f"template {name!r} is unknown.", hint=f"Use one of: {', '.join(NAMED)}.")
    if name == "chatml" and not {"<|im_start|>", "<|im_end|>"} <= tokenizer.get_vocab().keys():
        raise SettingsError(
            "template chatml needs the tokens <|im_start|> and <|im_end|>, which the base's tokenizer lacks.",
            hint="Use template = alpaca.",
        )
    if not tokenizer.eos_token:
        raise BaseModelError(
            f"the base's tokenizer has no end-of-text token, so template {name} can't end an answer.",
            hint="Set eos_token in its tokenizer_config.json.",
        )
    text = NAMED[name]
    return "{{ bos_token }}" + text if _begins_with_bos(tokenizer) else text


def _begins_with_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer puts a begin-of-text token before a text by itself."""
    plain, usual = backend(tokenizer).encode("x", add_special_tokens=False), backend(tokenizer).encode("x")
    return usual.ids[:1] == [_untyped(tokenizer).bos_token_id] and plain.ids != usual.ids


def _probe(template: ChatTemplate) -> None:
    """Learn from small conversations what the template can do, and refuse one that can't hold a question and answer."""
    asked: list[Message] = [{"role": "user", "content": "Question"}]
    answered: list[Message] = [*asked, {"role": "assistant", "content": _MARK}]
    try:
        text = template.render(answered)
        prompt = template.render(asked, generation_prompt=True)
        bare = template.render(asked)
    except TemplateRefusalError as error:
        raise _unusable(f"it refuses a question with an answer: {error}") from None
    before, found, after = text.partition(_MARK)
    if not found or "Question" not in before:
        raise _unusable("the words of a question with an answer don't come out of it")
    template.system_role = _has_system_role(template, answered)
    template.end_token = next(
        (
            i
            for i in backend(template.tokenizer).encode(after, add_special_tokens=False).ids
            if i in template.special_tokens
        ),
        None,
    )
    if template.end_token is None:
        template.warnings.append(
            "the chat template ends an answer without an end token, so the tuned model will not know when to stop"
        )
    header = before.removeprefix(bare)
    if prompt == bare and header != before and header.strip():
        _untyped(template.tokenizer).chat_template += _generation_prompt(header)
        template.warnings.append(f"the chat template has no generation prompt; {header!r} was added to it")


def _has_system_role(template: ChatTemplate, answered: list[Message]) -> bool:
    try:
        return _MARK + "s" in template.render([{"role": "system", "content": _MARK + "s"}, *answered])
    except TemplateRefusalError:
        return False


def _generation_prompt(header: str) -> str:
    quoted = header.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "{% if add_generation_prompt %}{{ '" + quoted + "' }}{% endif %}"


def _unusable(why: str) -> BaseModelError:
    return BaseModelError(
        f"the base's chat template can't be used: {why}.", hint=f"Name one of ours: template = {' or '.join(NAMED)}."
    )


def _render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    *,
    generation_prompt: bool,
) -> str:
    """The one place where a template, which is foreign code, runs: jinja2's immutable sandbox, in transformers."""
    try:
        return _untyped(tokenizer).apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=generation_prompt
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise TemplateRefusalError(str(error) or type(error).__name__) from error


def _special_tokens(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    added: dict[int, Any] = _untyped(tokenizer).added_tokens_decoder
    special = {number for number, token in added.items() if token.special}
    return frozenset((special | set(tokenizer.all_special_ids)) - {_untyped(tokenizer).unk_token_id})


def _untyped(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The tokenizer, for the methods whose types transformers leaves open."""
    return tokenizer


def backend(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """The tokenizers library's own object, with the padding and cutting off that its file may ask for."""
    inner = cast("Tokenizer", _untyped(tokenizer).backend_tokenizer)
    inner.no_truncation()
    inner.no_padding()
    return inner
