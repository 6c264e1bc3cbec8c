"""``celery -A celora.workers worker --gpu 0``: one option that pins the device and fills in the rest.

It is an eager option, because the queue and the node name must be known before Celery reads its own options. Pinning
sets ``CUDA_VISIBLE_DEVICES`` to the device's UUID and starts the process over, since a library may have looked already.
"""

import os
import sys

import click
from celery import Celery

from ..settings.errors import CeloraError
from ..settings.gpus import gpu_catalogue
from ..settings.settings import get_settings
from .gpu import Device, device
from .queues import gpu_queue

PINNED = "CELORA_PINNED_DEVICE"
"""Environment: ``<type>:<index>:<uuid>`` of the device this process is pinned to."""


def add_gpu_option(app: Celery) -> None:
    """Teach the worker command of this app the option ``--gpu``."""
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


def pinned_device() -> tuple[str, int, str] | None:
    """Type, number and UUID of the device that this process is pinned to; None without one."""
    gpu_type, _, rest = os.environ.get(PINNED, "").partition(":")
    index, _, uuid = rest.partition(":")
    return (gpu_type, int(index), uuid) if gpu_type else None


def pin(index: int, *, alone: bool = False) -> Device:
    """Pin this process, and what it starts, to the machine's device with this number.

    Args:
        index: The device's number on this machine.
        alone: Whether no library of this process can have looked at the devices yet, so that it may go on as it is.

    Raises:
        SettingsError: There is no such device, or the catalogue does not know it.
        UnavailableError: Its driver does not answer.
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
    context.default_map = {
        **(context.default_map or {}),
        "queues": gpu_queue(found.gpu_type),
        "hostname": f"{found.gpu_type}-{found.index}@%h",
        "concurrency": "1",
        "disable_prefetch": True,
    }
    return index
