"""Makes a job of a base, a dataset and a number of epochs: the shortest request that trains."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ...errors import RequestError
from ...models import datasets
from ...models.database import get_database
from ...models.openai import files
from ...models.scope.scope import Scope
from ...models.tenants.keys import ADMIN, Principal
from ...settings.settings import Settings
from .. import jobs
from .model_names import choose

FILE = "file-"


class ShortJob(BaseModel):
    """The request: the base, the training rows, and the passes over them."""

    model_config = ConfigDict(extra="forbid")

    base_model: Annotated[str, Field(min_length=1, max_length=500)]
    dataset_path: Annotated[str, Field(min_length=1, max_length=2000)]
    epochs: Annotated[int, Field(ge=1, le=50, strict=True)] = 3


def submit(asked: ShortJob, caller: Principal, settings: Settings) -> str:
    """Accept a job; ``dataset_path`` is the id of a file, the name of a dataset, or a path for an operator's key.

    Returns:
        The job's id.

    Raises:
        RequestError: The base or the file is not there, or a path needs another key.
        CeloraError: The installation refuses the job.
    """
    with get_database().session(Scope.of(caller.tenant)) as session:
        chosen = choose(session, caller.tenant, asked.base_model, settings)
        dataset = asked.dataset_path
        if dataset.startswith(FILE):
            dataset = files.find(session, caller.tenant, dataset).uri
        elif datasets.Reference.parse(dataset) is None and ADMIN not in caller.scopes:
            raise RequestError(
                "dataset_path: a path needs a key with the scope admin; give the id of a file or a dataset's name.",
                reason="forbidden",
                param="dataset_path",
                status=403,
            )
    base = {"continue_from": chosen.continue_from} if chosen.continue_from else {"base_model": chosen.base}
    owner = {"tenant": caller.tenant, "user": caller.name}
    fields = {**base, **owner, "dataset": dataset, "epochs": asked.epochs}
    return jobs.submit(fields, scope=Scope.of(caller.tenant))
