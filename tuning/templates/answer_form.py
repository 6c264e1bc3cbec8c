"""Separates an answer's words and tool calls from the scaffold that its chat template writes around them.

A template lets the model write more than the row's words: an empty think block (Qwen3), a channel (gpt-oss), a word for
"to everybody" (functionary), marks around a call. Two answers with the same words are the same answer, whichever
scaffold surrounds the words, so metrics over words remove the scaffold from both sides. The scaffold is learned from
the template by rendering small conversations; no table of families is kept.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..rows.row import Message, Row, Tool
from . import call_form
from .call_form import Call, CallForm
from .chat_template import ChatTemplate
from .tokenizer_calls import TemplateRefusalError
from .trained_words import THINK_BEGIN, THINK_END, THOUGHTS

WORDS, THOUGHT = "celoraWords", "celoraThought"
_ENDS_OF_THOUGHT = (THINK_END, "[/THINK]")
"""Marks that end a thought anywhere in a text, the same as for the rows' reader (``trained_words``)."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """Describes the scaffold around the words of an answer.

    Attributes:
        prefixes: Text before the words of an answer without thoughts, to a user and to a tool's result.
        suffix: Text after the words, before the end token.
        thought_ends: Marks after which the words begin.
        control: The control tokens as text.
        stops: Ids of the tokens that end an answer.
        calls_form: The form of calls; None where the template has no form that can be read.
        beside: Text around the words that stand beside a call.
    """

    prefixes: tuple[str, ...] = ()
    suffix: str = ""
    thought_ends: tuple[str, ...] = _ENDS_OF_THOUGHT
    control: re.Pattern[str] = field(default_factory=lambda: re.compile(r"(?!)"))
    stops: frozenset[int] = frozenset()
    calls_form: CallForm | None = None
    beside: tuple[str, str] = ("", "")

    def words(self, text: str) -> str:
        """Return only the words of an answer that was decoded with its control tokens; calls in one spelling."""
        calls, before, behind = self._read(text)
        if not calls:
            return self._bare(text)
        begin, end = self.beside
        before = before.strip().removeprefix(begin).removesuffix(end)
        return "\n".join(part for part in (self._bare(before), *map(str, calls), self._plain(behind)) if part)

    def calls(self, text: str) -> list[Call]:
        """Return the calls of an answer that was decoded with its control tokens."""
        return self._read(text)[0]

    def _read(self, text: str) -> tuple[list[Call], str, str]:
        if self.calls_form is None:
            return [], text, ""
        return self.calls_form.read(self.after_thoughts(text))

    def before_calls(self, text: str) -> str:
        """Return the text before the first call; empty where there is no call."""
        calls, before, _ = self._read(text)
        return before if calls else ""

    def after_thoughts(self, text: str) -> str:
        """Return the text after the last thought."""
        for mark in self.thought_ends:
            text = text.rpartition(mark)[2]
        return text

    def _bare(self, text: str) -> str:
        rest = self.after_thoughts(text)
        if rest == text and text.lstrip().startswith(THINK_BEGIN):
            return ""  # the thought never ended, so there is no answer
        if rest == text:
            rest = rest.strip()
            rest = rest.removeprefix(next((one for one in self.prefixes if rest.startswith(one)), ""))
        suffix = self.suffix.strip()
        return self._plain(rest.strip().removesuffix(suffix) if suffix else rest)

    def _plain(self, text: str) -> str:
        return self.control.sub("", text).strip()


def learn(template: ChatTemplate) -> AnswerForm:
    """Learn the text that a template writes around words, thoughts and calls."""
    stops = frozenset(template.stop_tokens())  # (they need not be special)
    control = sorted({template.token_text(token) for token in template.special_tokens | stops} - {""}, key=len)[::-1]
    pattern = re.compile("|".join(map(re.escape, control)) if control else r"(?!)")
    asked: Message = {"role": "user", "content": "Question"}
    said: Message = {"role": "assistant", "content": WORDS}
    called, result = _calling("", call_form.FIRST), {"role": "tool", "content": "Result", "name": call_form.FIRST}
    result["tool_call_id"] = call_form.IDS[0]
    tools = [_tool(call_form.FIRST)]
    around = [
        _around(_written(template, [asked, said])),
        _around(_written(template, [asked, called, result, said], tools)),
    ]
    thought_ends = [_end_of_thought(template, asked), *_ENDS_OF_THOUGHT]
    form = AnswerForm(
        tuple(dict.fromkeys(begin for begin, _ in around if begin)),
        around[0][1],
        tuple(dict.fromkeys(mark for mark in thought_ends if mark)),
        pattern,
        stops,
    )
    form = replace(form, calls_form=_call_form(template, form, asked))
    beside = _written(template, [asked, _calling(WORDS, call_form.FIRST)], tools)
    return replace(form, beside=_around(form.before_calls(beside))) if beside else form


def _around(text: str | None) -> tuple[str, str]:
    """Return the text before and after the words, white space aside."""
    before, found, behind = (text or "").partition(WORDS)
    return (before.strip(), behind.strip()) if found else ("", "")


def _calling(words: str, *names: str) -> Message:
    arguments = json.dumps(dict(call_form.ARGUMENTS))
    calls = [
        {"id": made, "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, made in zip(names, call_form.IDS, strict=False)
    ]
    return {"role": "assistant", "content": words, "tool_calls": calls}


def _end_of_thought(template: ChatTemplate, asked: Message) -> str:
    thoughtful: Message = {"role": "assistant", "content": WORDS, **dict.fromkeys(THOUGHTS, THOUGHT)}
    text = _written(template, [asked, thoughtful]) or ""
    between = text.partition(THOUGHT)[2].rpartition(WORDS)
    return between[0].strip() if between[1] else ""


def _call_form(template: ChatTemplate, form: AnswerForm, asked: Message) -> CallForm | None:
    """Learn the form of calls from one call and from two; a template may refuse the two."""
    texts = [
        _written(template, [asked, _calling("", *names)], [_tool(name) for name in names])
        for names in ((call_form.FIRST,), (call_form.FIRST, call_form.SECOND))
    ]
    one, two = (form.after_thoughts(text) if text else None for text in texts)
    words = next(iter(form.prefixes), "")
    return call_form.learn(one, two, no_name=words if words.isalnum() else "") if one else None


def _tool(name: str) -> Tool:
    properties = {
        call_form.TEXT_KEY: {"type": "string", "description": "A text"},
        call_form.NUMBER_KEY: {"type": "integer", "description": "A number"},
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": "Called", "parameters": parameters}}


def _written(template: ChatTemplate, messages: list[Message], tools: Sequence[Tool] = ()) -> str | None:
    """Return the last turn as a model learns to write it, without its end token; None where the template refuses."""
    weights = [0] * (len(messages) - 1) + [1]
    declared = list(tools) if tools and template.tool_support.declares else []
    row = Row(messages, weights, 1, declared)
    try:
        rendered = template.rendered(row, completion_only=True)
    except TemplateRefusalError:
        return None
    span = (rendered.spans or [])[-1]
    text = rendered.text[span.start : span.end]
    ends = [template.token_text(token) for token in template.stop_tokens()]
    words_end = max(span.words_end - span.start, 0)
    cuts = [found for end in ends if end and (found := text.find(end, words_end)) >= 0]
    return text[: min(cuts, default=len(text))]
