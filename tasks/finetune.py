"""``celora.finetune``: the door for applications. Validates, writes the row, and leaves the result to the job's end.

What it needs to do so is imported when it runs: a client imports this module to send the task, not to run it.
"""

from collections.abc import Mapping
from typing import Any

from celery.exceptions import Ignore

from ..settings.errors import SettingsError
from .base import task


@task("finetune", acks_late=True)
def finetune(self: Any, *before: Any, **spec: Any) -> None:
    """Fine-tune a base model: ``finetune.apply_async(kwargs={"base_model": …, "dataset": …})``.

    The message's id becomes the job's, and its result follows the job to its end: a summary with the adapter, the
    metrics and the cost, or the job's error. In a chain, a mapping that the step before returned gives fields too.
    """
    from .submission import accept_message  # noqa: PLC0415  (the record and its libraries; see the module's docstring)

    fields: dict[str, Any] = {}
    for earlier in before:
        if not isinstance(earlier, Mapping):
            raise SettingsError(
                "finetune takes its fields as keywords, or as one mapping from the step before it.",
                hint="In a chain whose earlier result is something else, use finetune.si(…).",
            )
        fields |= {str(name): value for name, value in earlier.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    accept_message({**fields, **spec}, self.request)
    raise Ignore
