"""Calls a tokenizer of transformers: its chat template in the sandbox, the tokenizers library's object, its tokens.

Transformers leaves the types of these methods open, so all untyped calls of this district stand here.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

from ...errors import CeloraError
from ..rows.row import Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


class TemplateRefusalError(Exception):
    """The template refused to render a conversation; the message carries the template's own words."""


def render_text(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    *,
    generation_prompt: bool,
    template: str | None = None,
) -> str:
    """Run a template, which is foreign code, in jinja2's immutable sandbox by transformers; no other place runs one.

    Args:
        tokenizer: The tokenizer, whose own template is used unless another one is given.
        messages: The conversation.
        tools: The declared tools.
        generation_prompt: True to end with the opening of an answer.
        template: A template in place of the tokenizer's own.

    Raises:
        TemplateRefusalError: The template refuses this conversation.
    """
    try:
        return untyped(tokenizer).apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
    except (CeloraError, MemoryError):
        raise
    except Exception as error:  # foreign code may raise anything
        raise TemplateRefusalError((str(error).splitlines() or [type(error).__name__])[0]) from error


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Return the ids of all control tokens, without the token for unknown words."""
    special = {number for number, token in added_tokens(tokenizer).items() if token.special}
    return frozenset((special | set(tokenizer.all_special_ids)) - {untyped(tokenizer).unk_token_id})


def added_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, Any]:
    """Return the tokens that the tokenizer finds before it cuts the text between them, by id."""
    return untyped(tokenizer).added_tokens_decoder


def token_text(tokenizer: "PreTrainedTokenizerBase", token: int) -> str:
    """Return a control token as it is written; a normalizer may spell an added one otherwise in its vocabulary."""
    added = added_tokens(tokenizer).get(token)
    return str(added.content if added is not None else untyped(tokenizer).convert_ids_to_tokens(token))


def answer_text(tokenizer: Any, tokens: Sequence[int], stops: Collection[int]) -> str:
    """Decode the tokens of an answer without the token that ends it, which need not be a special one."""
    ended = bool(tokens) and tokens[-1] in stops
    return str(tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)).strip()


def begins_with_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether the tokenizer puts a begin-of-text token before a text by itself."""
    plain, usual = backend(tokenizer).encode("x", add_special_tokens=False), backend(tokenizer).encode("x")
    return usual.ids[:1] == [untyped(tokenizer).bos_token_id] and plain.ids != usual.ids


def backend(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Return the tokenizers library's own object, with padding and truncation off that its file may ask for."""
    inner = cast("Tokenizer", untyped(tokenizer).backend_tokenizer)
    inner.no_truncation()
    inner.no_padding()
    return inner


def untyped(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """Return the tokenizer without its types, for the methods whose types transformers leaves open."""
    return tokenizer
