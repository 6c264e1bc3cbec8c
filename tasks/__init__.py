"""The Celery tasks and the canvas that chains them.

``from celora.tasks import finetune; finetune.apply_async(kwargs={"base_model": …, "dataset": …})``
"""

from .evaluate import evaluate, reevaluate
from .finetune import finetune
from .pipeline import pipeline
from .prepare import prepare
from .publish import publish
from .reap import reap
from .sweep import sweep
from .tick import tick
from .train import train

__all__ = ["evaluate", "finetune", "pipeline", "prepare", "publish", "reap", "reevaluate", "sweep", "tick", "train"]
