"""Puts a chat template in force: the named one, the base's own, or one of celora's; and tries what it can do.

A template without an end token or without a generation prompt gets them, and the completed template is saved with the
adapter. Nothing here imports torch or transformers.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...errors import BaseModelError, SettingsError
from ..rows.row import Message
from .builtin import NAMED
from .chat_template import ChatTemplate
from .tokenizer_calls import TemplateRefusalError, added_tokens, backend, begins_with_bos, special_ids, untyped
from .training_form import TRAINING, TrainingForm, training_form

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\ue0a1celora\ue0a2"


def choose(
    tokenizer: "PreTrainedTokenizerBase", named: str | None = None, *, stops: Iterable[int] = ()
) -> ChatTemplate:
    """Put a chat template in force: the named one, else the base's own, else ``alpaca``.

    Args:
        tokenizer: Its ``chat_template`` is set to the template in force, so that saving it ships the template.
        named: ``alpaca``, ``chatml``, ``training`` (the base's own, and its training form for rows) or None.
        stops: Ids of the tokens that the base's generation_config names as the end of an answer.

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
    form = _training_form(own) if named == TRAINING else None
    name = "own" if form else named or ("own" if own else next(iter(NAMED)))
    known = frozenset(tokenizer.get_vocab().values())
    template = ChatTemplate(
        tokenizer, name, special_tokens=special_ids(tokenizer), named_stops=frozenset(stops) & known, training=form
    )
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


def _own_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    own: str | dict[str, str] | None = untyped(tokenizer).chat_template
    if isinstance(own, dict):
        if "default" not in own:
            raise BaseModelError(
                f"the base has several chat templates ({', '.join(own)}), and none is called default.",
                hint=f"Name one of ours: template = {' or '.join(NAMED)}.",
            )
        return own["default"]
    return own or None


def _training_form(own: str | None) -> TrainingForm:
    form = training_form(own) if own else None
    if form is None:
        raise SettingsError(
            "template training: the installed TRL has no training form of the base's chat template.",
            hint="Leave template unset. With turns = each every answer is trained after the prompt in use.",
        )
    return form


def _named_template(tokenizer: "PreTrainedTokenizerBase", name: str) -> str:
    if name not in NAMED:
        raise SettingsError(f"template {name!r} is unknown.", hint=f"Use one of: {', '.join((*NAMED, TRAINING))}.")
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
    return "{{ bos_token }}" + text if begins_with_bos(tokenizer) else text


def _probe(template: ChatTemplate) -> None:
    """Probe the template's abilities with small conversations; refuse one that can't hold a question and an answer."""
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
    template.end_token = _end_of_turn(template, after)
    if template.end_token is None and template.training:
        template.end_token = _end_of_turn(
            template, template.render(answered, form=template.training).partition(_MARK)[2]
        )
    if template.end_token is None:
        _add_end(template)
    header = before.removeprefix(bare).rstrip(" ")  # (tokenizers join a space with the word behind it)
    if prompt == bare and header != before and header.strip():
        untyped(template.tokenizer).chat_template += _generation_prompt(header)
        template.warnings.append(f"the chat template has no generation prompt; {header!r} was added to it")


def _end_of_turn(template: ChatTemplate, after: str) -> int | None:
    """Return the control token after an answer: the first one, if only white space precedes it."""
    control = template.special_tokens | template.named_stops | added_tokens(template.tokenizer).keys()
    encoding = backend(template.tokenizer).encode(after, add_special_tokens=False)
    for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
        if token in control:
            return token if not after[:start].strip() else None
    return None


def _add_end(template: ChatTemplate) -> None:
    """Let the template write an end token after the last answer: the tokenizer's, else one that the base names.

    Raises:
        BaseModelError: Neither names one.
    """
    eos: int | None = untyped(template.tokenizer).eos_token_id
    token = eos if eos is not None else min(template.named_stops, default=None)
    if token is None:
        raise BaseModelError(
            "the base's chat template ends an answer without an end token, and neither its tokenizer nor its "
            "generation_config.json names one, so a tuned model would not know when to stop.",
            hint=f"Set eos_token in its tokenizer_config.json, or name one of ours: template = {' or '.join(NAMED)}.",
        )
    template.end_token, template.added_end = token, template.token_text(token)
    untyped(template.tokenizer).chat_template += (
        "{% if not add_generation_prompt and messages and messages[-1]['role'] == 'assistant' %}"
        f"{{{{ {_quoted(template.added_end)} }}}}{{% endif %}}"
    )
    template.warnings.append(
        f"the chat template ends an answer without an end token; {template.added_end} was added behind the last one"
    )


def _has_system_role(template: ChatTemplate, answered: list[Message]) -> bool:
    try:
        return _MARK + "s" in template.render([{"role": "system", "content": _MARK + "s"}, *answered])
    except TemplateRefusalError:
        return False


def _generation_prompt(header: str) -> str:
    return f"{{% if add_generation_prompt %}}{{{{ {_quoted(header)} }}}}{{% endif %}}"


def _quoted(text: str) -> str:
    """Return a text as a literal of jinja2."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _unusable(why: str) -> BaseModelError:
    return BaseModelError(
        f"the base's chat template can't be used: {why}.", hint=f"Name one of ours: template = {' or '.join(NAMED)}."
    )
