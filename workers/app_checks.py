"""Checks the Celery app before it connects to a broker: JSON only, and in production a server with a password.

Celery can be configured from many places: the environment, ``--config``, arguments after ``--``, another module. So
the configuration in force is checked, at the moment when a connection is made.
"""

from collections.abc import Iterable
from typing import Any

from ..errors import SettingsError
from ..settings.production import require_broker
from ..settings.settings import get_settings

JSON = frozenset({"json", "application/json"})
ACCEPTED = ("accept_content", "result_accept_content")
WRITTEN = ("task_serializer", "result_serializer", "event_serializer")


def require_safe(app: Any) -> None:
    """Refuse an app that reads or writes anything but JSON, and in production a server without a good password.

    Raises:
        SettingsError: A setting is unsafe; the message names the setting, its value and the value that it must have.
    """
    for name, value in _formats(app):
        if not set(value) or not set(value) <= JSON:
            raise SettingsError(
                f"Celery's {name} is {', '.join(sorted(value)) or 'empty'}, and celora speaks JSON alone: whoever can "
                "write to the broker could run code with anything else.",
                hint="Look for it in the environment (CELERY_CONFIG_MODULE), behind --config, behind -- on the command "
                "line, and in code that changes celora's app; take it out there.",
            )
    conf = app.conf
    urls = {str(url) for url in (conf.broker_read_url, conf.broker_write_url, conf.result_backend) if url}
    require_broker(get_settings(), *sorted(urls))


def _formats(app: Any) -> Iterable[tuple[str, list[str]]]:
    for name in ACCEPTED:
        value: Any = app.conf.get(name)
        if value is not None or name != "result_accept_content":  # unset, it has the value of accept_content
            yield name, [str(one) for one in ([value] if isinstance(value, str) else value or [])]
    for name in WRITTEN:
        yield name, [str(app.conf.get(name))]
    for name, task in app._tasks.items():  # noqa: SLF001  (`tasks` would load them all, here in the middle of a connection)
        if task.serializer is not None:
            yield f"serializer of the task {name}", [str(task.serializer)]
