"""``celora.finetune``: the door for applications. Validates, writes the row, and leaves the result to the job's end."""

from collections.abc import Mapping
from typing import Any

from celery.exceptions import Ignore

from ..models.database import get_database
from ..settings.errors import SettingsError
from ..settings.settings import get_settings
from ..workers.carry import poke
from .base import task
from .submission import accept


@task("finetune", acks_late=True)
def finetune(self: Any, *before: Any, **spec: Any) -> None:
    """Fine-tune a base model: ``finetune.apply_async(kwargs={"base_model": …, "dataset": …})``.

    The message's id becomes the job's, and its result follows the job to its end: a summary with the adapter, the
    metrics and the cost, or the job's error. In a chain, a mapping that the step before returned gives fields too.
    """
    if any(not isinstance(fields, Mapping) for fields in before):
        raise SettingsError(
            "finetune takes its fields as keywords, or as one mapping from the step before it.",
            hint="In a chain whose earlier result is something else, use finetune.si(…).",
        )
    accept(
        get_database(), get_settings(), {**{k: v for fields in before for k, v in fields.items()}, **spec}, self.request
    )
    poke()
    raise Ignore
