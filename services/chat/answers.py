"""Chooses who answers a chat: the serving server if it has the base, else the answer host, else nobody."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio.to_thread

from ...settings.settings import Settings
from ...tuning.answering.messages import AnswerEvent, AnswerRequest, Refused, Started, Turn, is_too_large
from ...tuning.bases.generation import stop_tokens
from ...workers.trainer.requests import hub_access
from . import answer_host, host_process, proxy
from .form import ChatForm
from .refusals import not_served, refusal_of
from .served_models import ServedModel, find_model, local_folder
from .serving_server import ServingServer

ServedBy = Literal["answer host", "serving server"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model is answered: its server and its name there, or the answer host; and its adapter's folder."""

    model: ServedModel
    folder: Path | None
    server: ServingServer | None = None
    name: str = ""

    @property
    def served_by(self) -> ServedBy:
        """The kind of the place."""
        return "serving server" if self.server else "answer host"


@dataclass(frozen=True, kw_only=True)
class Answering:
    """An answer that has begun."""

    served_by: ServedBy
    events: AsyncGenerator[AnswerEvent]


async def begin(form: ChatForm, tenant: str, settings: Settings) -> Answering:
    """Begin an answer: find its model and its place, wait for its turn, and return the events that follow.

    Raises:
        RequestError: The model is not there (404) or not served (503), the line is full (503), or the messages do not
            fit the model (400).
    """
    place = await anyio.to_thread.run_sync(_place_of, form.model, tenant, settings)
    events = _events(place, form, tenant, settings)
    first = await anext(events)
    if isinstance(first, Refused):
        await events.aclose()
        raise refusal_of(first, place.model)
    assert isinstance(first, Started)  # noqa: S101  (the first event of every other answer)
    return Answering(served_by=place.served_by, events=events)


def _place_of(asked: str, tenant: str, settings: Settings) -> Place:
    """Find a model and where it is answered.

    Raises:
        RequestError: The model is not there (404), or nothing here serves it (503).
    """
    model = find_model(tenant, asked, settings)
    folder = local_folder(model.adapter, settings) if model.adapter else None
    if settings.serving_url:
        server = ServingServer(settings.serving_url, settings.serving_api_key)
        base = server.served_base(model.base_names)
        if base is not None:
            name = model.adapter.name if model.adapter else base
            return Place(model=model, folder=folder, server=server, name=name)
    too_large = model.adapter is not None and is_too_large(model.adapter.base, settings.answer_bytes)
    if not settings.answer_bytes or too_large or not host_process.can_answer():
        raise not_served(model)
    return Place(model=model, folder=folder)


def _events(place: Place, form: ChatForm, tenant: str, settings: Settings) -> AsyncGenerator[AnswerEvent]:
    if place.server is None:
        return answer_host.answer(_request(place, form, tenant, settings), settings)
    body = {
        "model": place.name,
        "messages": [{"role": _role(message.role), "content": message.text} for message in form.messages],
        "max_tokens": form.most_tokens,
        "temperature": form.heat,
        "top_p": _top_p(form),
        "stop": form.stops,
        "seed": form.seed,
        "stop_token_ids": stop_tokens(place.folder) if place.folder else [],  # vLLM's own field: the adapter's ends
    }
    adapter = (place.name, place.folder) if place.folder else None
    return proxy.answer(place.server, {name: value for name, value in body.items() if value not in (None, [])}, adapter)


def _request(place: Place, form: ChatForm, tenant: str, settings: Settings) -> AnswerRequest:
    adapter = place.model.adapter
    return AnswerRequest(
        owner="" if settings.share == "all" else tenant,
        tenant=tenant,
        base=adapter.base if adapter else None,
        base_name=place.model.base_name,
        most_base_bytes=settings.answer_bytes,
        hub=hub_access(settings),
        adapter=adapter.name if adapter else None,
        adapter_dir=str(place.folder) if place.folder else None,
        template=adapter.template if adapter else None,
        quantization=adapter.quantization if adapter else "nf4",
        messages=[Turn(role=_role(message.role), content=message.text) for message in form.messages],
        max_new_tokens=form.most_tokens,
        temperature=form.heat,
        top_p=_top_p(form),
        stop=form.stops,
        seed=form.seed,
    )


def _role(role: str) -> Literal["system", "user", "assistant"]:
    """Return the role as templates know it; ``developer`` is OpenAI's newer name of ``system``."""
    if role == "assistant":
        return "assistant"
    return "user" if role == "user" else "system"


def _top_p(form: ChatForm) -> float:
    return 1.0 if form.top_p is None else float(form.top_p)
