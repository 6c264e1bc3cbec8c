"""Defines the Celery tasks and the canvas that chains them.

``from celora.tasks import finetune; finetune.apply_async(kwargs={"base_model": …, "dataset": …})``

An application needs that one task. The others are loaded by the workers (the app includes their modules by name), so
that importing this package costs little more than importing Celery.
"""

from .finetune import finetune

__all__ = ["finetune"]
