# pyright: basic
# (torch and PEFT ship incomplete types)
"""Holds one base with its recent adapters, and answers one conversation at a time with either.

A request of another base replaces the base. A request of another owner drops every adapter first, so that the weights
of two tenants are never in the process together. Nothing of a conversation stays: each answer has a cache of its own.
"""

import gc
import hashlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria

from ...storage.manifest import verify_manifest
from .. import device as devices
from ..adapters.load import add_adapter, plain_peft
from ..bases import base as bases
from ..evaluation.generate import decode, decoding, ends_of, prompt_tokens, template_in_force, until_stop
from ..failures import Situation, explained
from ..protocol import Base
from ..templates.chat_template import ChatTemplate
from ..templates.tokenizer_calls import TemplateRefusalError, answer_text
from .answer_text import AnswerText
from .client import Client
from .messages import AnswerRequest, Done, Refused, Started, Words, is_too_large

ADAPTERS = 4
"""Adapters that stay loaded beside the one that answers; one of rank 16 on 135M weights takes 20 MB."""
CHARACTERS_PER_TOKEN = 16
"""Of a prompt that has more characters than this times the context, the beginning alone is counted first."""


@dataclass(frozen=True)
class Loaded:
    """A model in the state of one request.

    Attributes:
        model: The base, whose layers may carry an adapter.
        template: The chat template in force.
        ends: Ids at which an answer ends.
        context_tokens: The context of the base.
    """

    model: Any
    template: ChatTemplate
    ends: list[int]
    context_tokens: int


class Resident:
    """Holds the base and the adapters of an answer host.

    Args:
        cache: The installation's cache; only copies in it are loaded, nothing is downloaded.
        device: ``cpu`` or ``cuda``.
        rendering: Makes the limits within which a chat template renders for a client; none unless given.
    """

    def __init__(
        self,
        cache: Path,
        device: str,
        rendering: Callable[[Client], AbstractContextManager[None]] = lambda _client: nullcontext(),
    ) -> None:
        self._cache, self._device, self._rendering = cache, device, rendering
        self._base: Base | None = None
        self._quantization, self._owner = "", ""
        self._model: Any = None
        self._peft: Any = None
        self._templates: dict[str, ChatTemplate] = {}
        """The loaded adapters by name, the most recent one last; the bare base is the empty name."""

    def answer(self, request: AnswerRequest, client: Client) -> None:
        """Answer a request, and send the events to its client.

        Raises:
            CeloraError: The base or the adapter cannot be loaded, or the device failed.
        """
        situation = Situation(self._device)
        with explained(situation):
            base = self._resolved(request)
            if is_too_large(base, request.most_base_bytes):
                client.send(Refused(code="too_large", message=f"{base.name} is too large for this machine."))
                return
            self._load_base(base, request)
            with self._adapted(request) as loaded:
                situation.doing = "generating"
                self._write(loaded, request, client)

    def _resolved(self, request: AnswerRequest) -> Base:
        if request.base is not None:
            return request.base
        return bases.resolve(request.base_name, None, self._cache, _here_alone(request), _silent)

    def _load_base(self, base: Base, request: AnswerRequest) -> None:
        """Load the base, unless it is the present one."""
        if self._base == base and self._quantization == request.quantization:
            return
        self._base = self._model = self._peft = None
        self._templates.clear()
        gc.collect()
        self._model, _ = bases.load_model(
            base,
            self._cache,
            _here_alone(request),
            quantization=request.quantization,
            compute_dtype=devices.compute_dtype(self._device),
            device=self._device,
            emit=_silent,
        )
        self._base, self._quantization = base, request.quantization

    @contextmanager
    def _adapted(self, request: AnswerRequest) -> Generator[Loaded]:
        """Put the adapter of a request, or the bare base, in force for a block."""
        if request.owner != self._owner:
            self._drop_adapters()
        self._owner = request.owner
        name = request.adapter or ""
        if name not in self._templates:
            self._add(name, request)
        template = self._templates[name] = self._templates.pop(name)
        if name:
            self._peft.set_adapter(_key(name))
        assert self._base is not None  # noqa: S101  (loaded before)
        bare = nullcontext() if name or self._peft is None else self._peft.disable_adapter()
        with bare:
            yield Loaded(self._model, template, ends_of(template, self._model), self._base.context_tokens)

    def _add(self, name: str, request: AnswerRequest) -> None:
        """Load an adapter of a verified folder, and drop the one that was not used for the longest time."""
        assert self._base is not None  # noqa: S101  (loaded before)
        folder = Path(request.adapter_dir) if name and request.adapter_dir else None
        if folder is not None:
            verify_manifest(folder)
            if self._peft is None:
                self._peft = plain_peft(self._model, folder, _key(name))
                self._model = self._peft.get_base_model()
            else:
                add_adapter(self._peft, folder, _key(name))
        hub = _here_alone(request)
        template = template_in_force(self._base, folder, self._cache, hub, _silent, named=request.template)
        self._templates[name] = template
        adapters = [one for one in self._templates if one]
        if name and len(adapters) > ADAPTERS:
            self._peft.set_adapter(_key(name))
            self._peft.delete_adapter(_key(adapters[0]))
            del self._templates[adapters[0]]

    def _drop_adapters(self) -> None:
        if self._peft is not None:
            self._model, self._peft = self._peft.unload(), None
        self._templates.clear()
        gc.collect()

    def _write(self, loaded: Loaded, request: AnswerRequest, client: Client) -> None:
        """Write the answer to the prompt of a request."""
        try:
            messages = [{"role": one.role, "content": one.content} for one in request.messages]
            with self._rendering(client):
                text = loaded.template.render(messages, generation_prompt=True)
        except TemplateRefusalError as error:
            client.send(Refused(code="bad_prompt", message=f"the model's chat template refuses the messages: {error}."))
            return
        prompt = _tokens(loaded, text)
        if len(prompt) >= loaded.context_tokens:
            client.send(
                Refused(
                    code="context_length_exceeded",
                    message=f"the messages have {'at least ' if prompt.cut else ''}{len(prompt):,} tokens, and this "
                    f"model's context is {loaded.context_tokens:,} tokens with the answer. Send fewer.",
                    facts={"prompt_tokens": len(prompt), "context_tokens": loaded.context_tokens},
                )
            )
            return
        client.send(Started(prompt_tokens=len(prompt)))
        client.send(self._decoded(loaded, prompt, request, client))

    def _decoded(self, loaded: Loaded, prompt: list[int], request: AnswerRequest, client: Client) -> Done:
        torch.seed() if request.seed is None else torch.manual_seed(request.seed)
        tokenizer = loaded.template.tokenizer
        room = min(request.max_new_tokens, loaded.context_tokens - len(prompt))
        config = decoding(tokenizer, loaded.ends, room, request.temperature, request.top_p)
        text = AnswerText(request.stop)
        step = _Step(loaded, len(prompt), text, client)
        row = decode(loaded.model, [prompt], config, self._device, step)[0]
        written = until_stop(row, loaded.ends)
        if part := text.end(answer_text(tokenizer, written, loaded.ends)):
            client.send(Words(text=part))
        ended = text.stopped or bool(written and written[-1] in loaded.ends)
        return Done(
            text=text.text,
            finish_reason="stop" if ended else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(written),
        )


class _Step(StoppingCriteria):
    """Sends the words of each token, and ends the decoding at a stop text or when nobody reads any more."""

    def __init__(self, loaded: Loaded, begin: int, text: AnswerText, client: Client) -> None:
        self._loaded, self._begin, self._text, self._client = loaded, begin, text, client

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        del scores
        written = input_ids[0, self._begin :].tolist()
        part = self._text.grow(answer_text(self._loaded.template.tokenizer, written, self._loaded.ends))
        if part:
            self._client.send(Words(text=part))
        ended = self._text.stopped or self._client.gone.is_set()
        return torch.full((len(input_ids),), ended, dtype=torch.bool, device=input_ids.device)


class _Prompt(list[int]):
    """The tokens of a prompt, or of its beginning where that alone is too long."""

    cut = False


def _tokens(loaded: Loaded, text: str) -> _Prompt:
    """Tokenize a prompt; of a very long one the beginning first, which takes a bounded time."""
    beginning = text[: loaded.context_tokens * CHARACTERS_PER_TOKEN]
    found = _Prompt(prompt_tokens(loaded.template, beginning))
    if len(beginning) == len(text):
        return found
    if len(found) > loaded.context_tokens:
        found.cut = True
        return found
    return _Prompt(prompt_tokens(loaded.template, text))


def _key(name: str) -> str:
    """Return the name of an adapter for PEFT, which allows no dot in it and no part of its own names."""
    return hashlib.sha256(name.encode()).hexdigest()[:20]


def _here_alone(request: AnswerRequest) -> Any:
    """Return the request's access to bases without the hub, and without any base's own code."""
    return request.hub.model_copy(update={"offline": True, "remote_code_bases": []})


def _silent(_event: str, **_fields: Any) -> None:
    """Report no phase: nobody reads them."""
