"""Adds the option ``--gpu`` to Celery's worker command; it pins the device and sets the queue, the name and more.

The option is eager, because the queue and the node name must be known before Celery reads its own options. Pinning sets
``CUDA_VISIBLE_DEVICES`` to the device's UUID and restarts the process, since a library may have read the variable.
"""

import os
import sys

import click
from celery import Celery
from celery.utils.nodenames import host_format

from ..errors import CeloraError
from ..models.queue.labels import label_text
from ..settings.gpus import gpu_catalogue
from ..settings.settings import Settings, get_settings
from .gpu import Device, device
from .queues import direct_queue, gpu_queue, own_queue

PINNED = "CELORA_PINNED_DEVICE"
"""Environment: ``<type>:<index>:<uuid>`` of the device this process is pinned to."""


def add_gpu_option(app: Celery) -> None:
    """Add the option ``--gpu`` to the worker command of this app."""
    app.user_options["worker"].add(  # pyright: ignore[reportUnknownMemberType]
        click.Option(
            ("--gpu",),
            type=int,
            is_eager=True,
            expose_value=True,
            callback=_pin,
            help="Pin this worker to the machine's GPU with this number; it finds its type and joins gpu.<type>.",
        )
    )


def is_special(settings: Settings) -> bool:
    """Return whether this machine's GPU workers carry labels or are reserved for a tenant, by the settings.

    Raises:
        SettingsError: A label has a wrong form.
    """
    return bool(label_text(settings.labels.split(",")) or settings.reserved_for)


def pinned_device() -> tuple[str, int, str] | None:
    """Return type, number and UUID of the device that this process is pinned to; None without one."""
    gpu_type, _, rest = os.environ.get(PINNED, "").partition(":")
    index, _, uuid = rest.partition(":")
    return (gpu_type, int(index), uuid) if gpu_type else None


def pin(index: int, *, alone: bool = False) -> Device:
    """Pin this process and its children to the machine's device with this number.

    Args:
        index: The device's number on this machine.
        alone: True where no library of this process has read the devices yet, so that no restart is needed.

    Raises:
        SettingsError: There is no such device, or the catalogue lacks it.
        UnavailableError: The driver does not answer.
    """
    found = device(index, gpu_catalogue(get_settings().gpus))
    os.environ[PINNED] = f"{found.gpu_type}:{found.index}:{found.uuid}"
    if alone and found.uuid:
        os.environ["CUDA_VISIBLE_DEVICES"] = found.uuid
    return found


def _pin(context: click.Context, _option: click.Parameter, index: int | None) -> int | None:
    if index is None:
        os.environ.pop(PINNED, None)
        return None
    try:
        found = pin(index)
    except CeloraError as error:
        raise click.ClickException(str(error)) from error
    if found.uuid and os.environ.get("CUDA_VISIBLE_DEVICES") != found.uuid:
        os.environ["CUDA_VISIBLE_DEVICES"] = found.uuid
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  (the same program again, pinned)
    name = f"{found.gpu_type}-{found.index}@%h"
    context.default_map = {
        **(context.default_map or {}),
        "queues": ",".join(_queues(found, host_format(name))),
        "hostname": name,
        "concurrency": str(get_settings().device_slots(cuda=bool(found.uuid))),
        "disable_prefetch": True,
    }
    return index


def _queues(found: Device, worker: str) -> list[str]:
    """List the queues of a device's worker: its own, or the common one and with a trainer host its direct one."""
    settings = get_settings()
    if is_special(settings):
        return [own_queue(found.gpu_type, worker)]
    direct = [direct_queue(found.gpu_type, worker)] if settings.hosts_trainers(cuda=bool(found.uuid)) else []
    return [gpu_queue(found.gpu_type), *direct]
