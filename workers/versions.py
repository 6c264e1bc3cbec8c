"""Reports the versions of celora and of the libraries that shape a run, as a worker registers them."""

import platform
from importlib.metadata import PackageNotFoundError, version

REPORTED = ("celora", "celery", "kombu", "torch", "transformers", "peft", "trl", "bitsandbytes")


def installed_versions() -> dict[str, str]:
    """Return the versions by name, Python included; an optional library that is not installed is left out."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
