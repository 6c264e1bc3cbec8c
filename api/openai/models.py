"""Serves ``/v1/models``: the bases and aliases that a request may name, and the tenant's own models."""

from typing import Literal, Self

from fastapi import APIRouter, BackgroundTasks

from ...models.database import get_database
from ...services.chat.unloading import unload_deleted
from ...services.openai import model_names
from ...settings.settings import get_settings
from ..answers import ERRORS
from ..pages import Deleted, Listed, Page
from ..principal import Caller, Writer

router = APIRouter(prefix="/v1/models", tags=["models"], responses=ERRORS)


class ModelObject(Listed):
    """A model as clients read it."""

    object: Literal["model"] = "model"
    created: int
    owned_by: str

    @classmethod
    def of(cls, model: model_names.ModelView) -> Self:
        """Make the object of a model."""
        return cls(id=model.id, created=int(model.created_at), owned_by=model.owner)


@router.get("")
def list_models(caller: Caller) -> Page[ModelObject]:
    """List the bases, the aliases, and the tenant's own models."""
    found = model_names.models_of(caller.tenant, get_settings())
    return Page[ModelObject].of([ModelObject.of(model) for model in found], has_more=False)


@router.get("/{model:path}")
def retrieve(caller: Caller, model: str) -> ModelObject:
    """Return a model; its id may hold slashes, raw or percent-encoded."""
    return ModelObject.of(model_names.find(caller.tenant, model, get_settings()))


@router.delete("/{model:path}")
def delete(caller: Writer, model: str, background: BackgroundTasks) -> Deleted:
    """Delete a trained model; a serving server unloads its adapter after the answer."""
    model_names.delete(caller.tenant, model, get_settings())
    background.add_task(unload_deleted, get_database(), get_settings())
    return Deleted(id=model, object="model")
