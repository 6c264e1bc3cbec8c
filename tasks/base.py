"""Provides the task decorator: it refuses unknown options, where Celery accepts a misspelled one silently."""

from collections.abc import Callable
from typing import Any

from celery import Task

from ..workers.celery import app

OPTIONS = frozenset({"acks_late", "base", "expires", "ignore_result", "send_events"})


def task(name: str, **options: Any) -> Callable[[Callable[..., Any]], Task[Any, Any]]:
    """Register a function as the Celery task ``celora.<name>``, bound; its queue is the app's ``task_routes``'.

    Raises:
        TypeError: An option is unknown, at import.
    """
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise TypeError(f"task {name}: unknown option {', '.join(unknown)}; known are {', '.join(sorted(OPTIONS))}")
    return app.task(name=f"celora.{name}", bind=True, **options)
