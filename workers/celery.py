"""The Celery app.

Unusual about it: stages acknowledge early and prefetch nothing, because no broker setting makes a day-long task safe on
Redis (docs/decisions.md); the lease in the record does. The unacknowledged-message keys are our own, so that celora can
share a Redis database with an application's own Celery. The default queue stays Celery's, because our workers also send
the callbacks of callers, which belong to the callers' workers.
"""

from typing import Any

from celery import Celery, Task
from kombu import Connection
from kombu.utils.objects import cached_property

from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings, get_settings
from . import options, queues
from .safety import require_safe

FALLBACK_BROKER = "redis://127.0.0.1:6379/0"

EXPIRES_S = 2 * 3600.0
"""When a round that nobody has come to is dropped. It travels as a time by its sender's clock, so it is longer than any
two clocks are apart; the rounds that pile up meanwhile are many, quick and harmless."""


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings for an installation; each deviation from its defaults has its reason in docs/decisions.md."""
    broker_url = settings.broker_url or FALLBACK_BROKER
    every = {
        "tick": settings.tick_s,
        "slots": settings.tick_s,
        "champions": settings.tick_s,
        "reap": settings.reaper_s,
        "sweep": 3600.0,
    }
    return {
        "broker_url": broker_url,
        "result_backend": settings.result_backend or broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 4,
        "broker_transport_options": {
            "visibility_timeout": settings.visibility_timeout_s,
            "unacked_key": "celora.unacked",
            "unacked_index_key": "celora.unacked_index",
            "unacked_mutex_key": "celora.unacked_mutex",
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "max_retries": 1,  # of a connection that is needed at once: kombu's own sleeps 2 s and 4 s between tries
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
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
        "worker_consumer": "celora.workers.consumer:Consumer",
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
        "task_routes": {"celora.prepare": {"queue": queues.PREP}, "celora.*": {"queue": queues.ENTRY}},
        "enable_utc": True,
        "timezone": "UTC",
        "beat_schedule": {
            name: {
                "task": f"celora.{name}",
                "schedule": seconds,
                "options": {"queue": queues.ENTRY, "expires": EXPIRES_S},
            }
            for name, seconds in every.items()
        },
    }


TASKS = ("finetune", "prepare", "train", "evaluate", "publish", "tick", "slots", "champions", "reap", "sweep")


class TolerantTask(Task[Any, Any]):
    """A task of which a message of the wrong shape is rejected, and does not end its worker."""

    abstract = True
    Strategy = "celora.workers.unfit:strategy"


class App(Celery):
    """Celery's app, which makes no connection before it is known to be safe (``safety``).

    A worker and beat are refused with a sentence before that; this is for clients, Flower and what else uses the app.
    """

    task_cls = "celora.workers.celery:TolerantTask"

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to consume by."""
        require_safe(self)
        return super().connection_for_read(url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to produce by."""
        require_safe(self)
        return super().connection_for_write(url, **options)

    @cached_property
    def Beat(self) -> Any:  # noqa: N802  (Celery's name)  # pyright: ignore[reportIncompatibleMethodOverride]
        """The program ``celery beat``."""
        return self.subclass_with_self("celora.workers.beat:Beat")  # pyright: ignore[reportArgumentType]


app = App(
    "celora",
    include=[
        *(f"celora.tasks.{name}" for name in TASKS),
        "celora.workers.registration",
        "celora.workers.control",
    ],
)
app.conf.update(configuration(get_settings()))
options.add_gpu_option(app)
