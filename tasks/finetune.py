"""``celora.finetune`` accepts a job from an application: it validates the fields and writes the row.

The task's result follows at the job's end. The imports that the task needs stand in the function: a client imports this
module to send the task, not to run it.

Unusual: the task cannot run outside of a worker. A direct call, ``.apply()`` and Celery's eager mode would accept the
job in the caller's process and then end with ``Ignore``, as if nothing had happened; each is refused.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Ignore

from ..errors import SettingsError
from .base import task

IN_TESTS = (
    "In tests, replace finetune.apply_async by a function of your own, or start `celora up` with a CELORA_HOME of its "
    "own and send the task."
)


class SentTask(Task[Any, Any]):
    """A task that is sent to the workers and never runs in the caller's process."""

    abstract = True

    def apply(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refuse to run in the caller's process; ``task_always_eager`` calls this method too.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(
            f"{self.name} can not run in the caller's process (.apply(), or task_always_eager): the job runs for hours "
            "on the workers. Send it: finetune.apply_async(kwargs={…}).",
            hint=IN_TESTS,
        )


@task("finetune", acks_late=True, base=SentTask)
def finetune(self: Any, *before: Any, **spec: Any) -> None:
    """Fine-tune a base model: ``finetune.apply_async(kwargs={"base_model": …, "dataset": …})``.

    The message's id becomes the job's id, and the message's result is set at the job's end: a summary with the adapter,
    the metrics and the cost, or the job's error. In a chain, a mapping that the step before returned gives fields too.

    Raises:
        SettingsError: The task was called as a function, or its fields are no fields of a job.
    """
    from ..services.acceptance import accept_message  # noqa: PLC0415  (see the module's docstring)

    if self.request.called_directly:
        raise SettingsError(
            "finetune is a task, and was called as a function. Send it: finetune.apply_async(kwargs={…}).",
            hint=IN_TESTS,
        )
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
