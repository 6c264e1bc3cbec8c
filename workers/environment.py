"""What a trainer process finds in its environment: everything of ours but secrets, and of those the ones its job needs.

A worker's environment may hold the database's and the broker's password, a bucket's keys and tokens. A trainer runs
libraries over strangers' data, so it gets a token only where the job names something that asks for it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from ..models.spec import JobSpec
from ..settings.bases import CATALOGUE
from ..settings.redaction import is_secret
from ..settings.secrets import Secrets
from ..settings.settings import Settings

BUCKETS = {"s3://": "AWS_", "gs://": "GOOGLE_"}
"""Sources that are read with a cloud's credentials, and how those variables begin."""
OURS = ("CELORA_", "FLOWER_", "CELERY_")


def inherited() -> dict[str, str]:
    """This process's environment without secrets."""
    return {name: value for name, value in os.environ.items() if not is_secret(name, value)}


def of_this_user() -> dict[str, str]:
    """The secrets of this environment that are the user's own, and not the installation's.

    For a trainer that a command starts in the foreground: it acts for the very person whose environment this is.
    """
    return {name: value for name, value in os.environ.items() if is_secret(name, value) and not name.startswith(OURS)}


def secrets_for(settings: Settings, spec: JobSpec) -> dict[str, str]:
    """The secrets that a trainer of this job gets, as environment variables: the stored ones first, then our own."""
    sources = [spec.dataset, *_eval_sources(spec)]
    names = ["HF_TOKEN"] if _asks_the_hub(spec, sources) else []
    names += ["WANDB_API_KEY"] if "wandb" in spec.report_to else []
    for scheme, prefix in BUCKETS.items():
        if any(source.startswith(scheme) for source in sources):
            names += [name for name, value in os.environ.items() if name.startswith(prefix) and is_secret(name, value)]
    return named_secrets(settings.home, names, os.environ)


def named_secrets(home: Path, names: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The named secrets that are set, stored ones before those of an environment."""
    stored = Secrets(home).environment(*names)
    return {name: value for name in names if (value := stored.get(name) or environment.get(name, ""))}


def _eval_sources(spec: JobSpec) -> list[str]:
    named = spec.eval_dataset if isinstance(spec.eval_dataset, dict) else {"eval": spec.eval_dataset or ""}
    return [*named.values(), (spec.gate.must_pass or "") if spec.gate else ""]


def _asks_the_hub(spec: JobSpec, sources: list[str]) -> bool:
    """Whether the base, or a dataset, is fetched from the model hub; a folder, a file and a shipped base are not."""
    base = spec.base_model
    shipped = any(known.name == base and known.file for known in CATALOGUE)
    local = shipped or base.lower().endswith(".gguf") or Path(base).expanduser().is_dir()
    return not local or any(source.startswith("hub:") for source in sources)
