"""Configures the Celery app.

Unusual: stages acknowledge early and prefetch no message, because no broker setting makes a day-long task safe on Redis
(docs/decisions.md); the lease in the record does. The keys of unacknowledged messages are celora's own, so that celora
can share a Redis database with an application's own Celery. The default queue stays Celery's, because celora's workers
also send the callbacks of callers, which belong to the callers' workers.
"""

from typing import Any

from celery import Celery, Task
from kombu import Connection
from kombu.utils.objects import cached_property

from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings, get_settings
from . import gpu_option as options
from . import queues
from .app_checks import require_safe

FALLBACK_BROKER = "redis://127.0.0.1:6379/0"

EXPIRES_S = 2 * 3600.0
"""Seconds after which the message of a round is dropped. The message carries the expiry as a time of the sender's
clock, so the limit exceeds the difference of any two clocks. The rounds that pile up are many, quick and harmless."""


NOTIFY_S = 10.0
"""Longest pause between two rounds of notifications."""


def configuration(settings: Settings) -> dict[str, Any]:
    """Build Celery's settings for an installation; docs/decisions.md has the reason of each deviation."""
    broker_url = settings.broker or FALLBACK_BROKER
    return {
        "broker_url": broker_url,
        "result_backend": settings.results or broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 4,
        "broker_transport_options": _transport(settings),
        "redis_socket_timeout": 5.0,
        "redis_socket_connect_timeout": 2.0,
        "redis_socket_keepalive": True,
        "result_backend_transport_options": {
            "retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.5, "timeout": 3.0},
        },
        "task_publish_retry_policy": {
            "max_retries": 2,
            "interval_start": 0,
            "interval_step": 0.5,
            "interval_max": 1,
        },
        "worker_pool": "prefork",
        "worker_consumer": "celora.workers.lifecycle.consumer:Consumer",
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": True,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_track_started": True,
        "task_send_sent_event": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "result_extended": True,
        "result_expires": settings.result_expires_s,
        "task_create_missing_queues": True,
        "task_queues": queues.declared(gpu_catalogue(settings.gpus)),
        "task_default_queue": "celery",
        "task_routes": {
            "celora.prepare": {"queue": queues.PREP},
            "celora.check_file": {"queue": queues.PREP},
            "celora.check_data": {"queue": queues.PREP},
            "celora.*": {"queue": queues.ENTRY},
        },
        "enable_utc": True,
        "timezone": "UTC",
        "beat_scheduler": "celora.workers.lifecycle.beat:Scheduler",
        "beat_schedule": _beat(settings),
    }


def _transport(settings: Settings) -> dict[str, Any]:
    """Build the options of the connection to Redis."""
    return {
        "visibility_timeout": settings.visibility_timeout_s,
        "unacked_key": "celora.unacked",
        "unacked_index_key": "celora.unacked_index",
        "unacked_mutex_key": "celora.unacked_mutex",
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "max_retries": 1,  # for a connection that is needed at once: kombu's own sleeps 2 s and 4 s between tries
        "interval_start": 0,
        "interval_step": 0.2,
        "interval_max": 0.5,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }


def _beat(settings: Settings) -> dict[str, Any]:
    """Build the entries of beat: each task that is due at an interval."""
    every = {
        "tick": settings.tick_s,
        "slots": settings.tick_s,
        "champions": settings.tick_s,
        "notify": min(settings.tick_s, NOTIFY_S),
        "reap": settings.reaper_s,
        "sweep": 3600.0,
    }
    return {
        name: {
            "task": f"celora.{name}",
            "schedule": seconds,
            "options": {"queue": queues.ENTRY, "expires": EXPIRES_S},
        }
        for name, seconds in every.items()
    }


TASKS = (
    # each task has a module in tasks/; evaluate.py also holds celora.reevaluate, and run_schedules.py is celora.slots
    "finetune",
    "check_file",
    "check_data",
    "prepare",
    "train",
    "evaluate",
    "publish",
    "tick",
    "run_schedules",
    "notify_champions",
    "notify",
    "reap",
    "sweep",
)


class TolerantTask(Task[Any, Any]):
    """Celery's task with a rejection of malformed messages, which would end a stock worker."""

    abstract = True
    Strategy = "celora.workers.lifecycle.malformed:strategy"


class App(Celery):
    """Celery's app with a check: it makes no connection unless its settings are safe (``app_checks``).

    Workers and beat check their settings earlier and exit with a message; this check covers clients, Flower and others.
    """

    task_cls = "celora.workers.celery:TolerantTask"

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """Make a connection for consuming."""
        require_safe(self)
        return super().connection_for_read(url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        """Make a connection for producing."""
        require_safe(self)
        return super().connection_for_write(url, **options)

    @cached_property
    def Beat(self) -> Any:  # noqa: N802  (Celery's name)  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the class of the program ``celery beat``."""
        return self.subclass_with_self("celora.workers.lifecycle.beat:Beat")  # pyright: ignore[reportArgumentType]


app = App(
    "celora",
    include=[
        *(f"celora.tasks.{name}" for name in TASKS),
        "celora.workers.lifecycle.registration",
        "celora.workers.lifecycle.control",
    ],
)
app.conf.update(configuration(get_settings()))
options.add_gpu_option(app)
