"""Makes the ids of trained models: ``ft:<name>:<tenant>:<suffix>:<tail>``, always five parts.

``<name>`` is the listed id of the base, or its last path component; the tail is derived from the job's id, so that an
id is known before the job ends. A constraint of the record keeps ids unique within a tenant.
"""

import base64
import hashlib
import re

PREFIX = "ft:"
TAIL_BYTES = 10
LONGEST_NAME = 100
CHECKPOINT = re.compile(r"(?P<model>.+):ckpt-step-(?P<step>\d{1,12})")


def name_of(base: str) -> str:
    """Return the part of a model's id that names its base."""
    return base.rstrip("/").rsplit("/", 1)[-1].replace(":", "-")[:LONGEST_NAME]


def model_id(named: str, tenant: str, suffix: str, job_id: str) -> str:
    """Make the id of the model that a job trains.

    Example:
        ``ft:smollm2-135m-instruct:team-a:support:4vq3xk2mzj7hq2da``
    """
    tail = base64.b32encode(hashlib.sha256(job_id.encode()).digest()[:TAIL_BYTES]).decode().lower()
    return f"{PREFIX}{name_of(named)}:{tenant}:{suffix}:{tail}"


def checkpoint_id(model: str, step: int) -> str:
    """Make the id of a checkpoint of a model."""
    return f"{model}:ckpt-step-{step}"


def split_checkpoint(model: str) -> tuple[str, int | None]:
    """Split the id of a checkpoint into its model's id and its step; the step of a model is None."""
    found = CHECKPOINT.fullmatch(model)
    return (found["model"], int(found["step"])) if found else (model, None)
