"""Builds the environment of a trainer process: the worker's variables without secrets, and the secrets of its job.

A worker's environment may hold the database's and the broker's password, a bucket's keys and tokens. A trainer runs
libraries over foreign data, so it gets a secret only where the job names a source that needs it.
"""

import os

from ...models.spec import JobSpec
from ...settings.bases import CATALOGUE, path_of
from ...settings.redaction import is_secret
from ...settings.secrets import secrets_of_job
from ...settings.settings import Settings

BUCKETS = {"s3://": "AWS_", "gs://": "GOOGLE_"}
"""Sources that are read with a cloud's credentials, each with the prefix of their variables."""
OURS = ("CELORA_", "FLOWER_", "CELERY_")

HUB_TOKEN = "HF_TOKEN"  # noqa: S105  (the name of a variable)
"""The variable with the token of the model hub. A trainer host never needs it, since it fetches nothing."""


def inherited() -> dict[str, str]:
    """Return this process's environment without secrets."""
    return {name: value for name, value in os.environ.items() if not is_secret(name, value)}


def of_its_threads(threads: int) -> dict[str, str]:
    """Build the variables that limit a trainer to its threads, and let a thread that waits for others sleep.

    By default waiting threads spin: two trainers with a thread a core took 2.7 times as long side by side as one after
    the other. Where one trainer has the machine for itself, ``OMP_WAIT_POLICY`` may be set for the worker.

    Args:
        threads: CPU threads; 0 means the number in the worker's environment, else a thread a core.
    """
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
    return {**waiting, **limits, "TOKENIZERS_PARALLELISM": "false"}


def of_this_user() -> dict[str, str]:
    """Return the secrets of this environment that are the user's own, and not the installation's.

    They are for a trainer that a command starts in the foreground: it acts for the person who set this environment.
    """
    return {name: value for name, value in os.environ.items() if is_secret(name, value) and not name.startswith(OURS)}


def secrets_for(settings: Settings, spec: JobSpec) -> dict[str, str]:
    """Return the secrets of a job's trainer as environment variables: its tenant's own, and those that it may share.

    The names of its run in a tracker are among them.
    """
    sources = [spec.dataset, *_eval_sources(spec)]
    names = [HUB_TOKEN] if _asks_the_hub(spec, sources) else []
    names += ["WANDB_API_KEY"] if "wandb" in spec.report_to else []
    for scheme, prefix in BUCKETS.items():
        if any(source.startswith(scheme) for source in sources):
            names += [name for name, value in os.environ.items() if name.startswith(prefix) and is_secret(name, value)]
    found = secrets_of_job(settings.home, spec.tenant, names, os.environ, shared=settings.shared_secrets)
    return {**of_its_tracker(spec), **found}


def of_its_tracker(spec: JobSpec) -> dict[str, str]:
    """Build the variables that name the run of a job in Weights & Biases; none where the job does not report there."""
    if "wandb" not in spec.report_to:
        return {}
    return {f"WANDB_{name.upper()}": value for name, value in spec.wandb.items() if value}


def _eval_sources(spec: JobSpec) -> list[str]:
    named = spec.eval_dataset if isinstance(spec.eval_dataset, dict) else {"eval": spec.eval_dataset or ""}
    return [*named.values(), (spec.gate.must_pass or "") if spec.gate else ""]


def _asks_the_hub(spec: JobSpec, sources: list[str]) -> bool:
    """Check if the base, or a dataset, is fetched from the model hub; a folder, a file and a shipped base are not."""
    base = spec.base_model
    shipped = any(known.name == base and known.file for known in CATALOGUE)
    local = shipped or base.lower().endswith(".gguf") or path_of(base).is_dir()
    return not local or any(source.startswith("hub:") for source in sources)
