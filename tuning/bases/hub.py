"""Resolves a base model on a hub to a commit, checks it and fetches it with progress, through huggingface_hub.

Unusual: a repository is checked before its weights are fetched. Its file list and its two small configuration files
are fetched first, and a repository that would run code or has only pickles is refused before its weights are
transferred. The token comes from HF_TOKEN alone, never from a login in the user's home folder.
"""

# pyright: basic
# (tqdm has no types, and huggingface_hub is imported late)

import io
import os
import re
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import BaseModelError, UnavailableError
from ...storage.disk_space import disk_full, is_no_space
from ..protocol import Emit, HubAccess
from .cache import FULL_HINT, HUB
from .model_files import WEIGHTS, no_safetensors, read_json, refuse_unsafe

REPO_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
CONFIGS = ["config.json", "tokenizer_config.json"]
WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
CODE = ["*.py"]
UNWANTED = ["*/*", "consolidated*.safetensors", "training_args*", "README*"]
GATED_HINT = (
    "Accept its terms on the hub, make a read token there, then run: celora secret set HF_TOKEN "
    "(the secret that the trainer is given)."
)


def fetch(repo: str, revision: str | None, cache: Path, hub: HubAccess, emit: Emit) -> tuple[str, Path]:
    """Download a repository as far as needed, and return its commit and its folder in the cache.

    Args:
        repo: The hub id, ``owner/name``.
        revision: A branch, tag or commit; the default branch unless given.
        cache: The installation's cache; the hub's files go below ``hub/`` in it.
        hub: The hub's address and the operator's limits.
        emit: Receives the progress as ``phase`` events, in bytes.

    Raises:
        BaseModelError: The repository is unknown, gated, unreachable and not cached, or refused.
        DiskFullError: The cache's disk is full.
    """
    api, library = _api(hub)
    where = f"{repo} at {revision}" if revision else repo
    code_allowed = hub.allows_code(repo)
    wanted = WANTED + (CODE if code_allowed else [])
    place: dict[str, Any] = {"cache_dir": cache / HUB, "token": os.environ.get("HF_TOKEN") or False}
    with _explained(repo, where, hub, cache):
        pinned = api.resolve_revision(repo, revision=revision, local_files_only=hub.offline, **place)
        place |= {"revision": pinned, "endpoint": hub.endpoint, "library_name": "celora"}
        folder = _cached(library, repo, wanted, place)
        if folder is None and hub.offline:
            raise _not_cached(repo, where, "this installation is offline")
        if folder is None:
            emit("phase", phase=f"fetching {repo}", done=None, total=None)
            small = Path(library.snapshot_download(repo, allow_patterns=CONFIGS, tqdm_class=_silent_bar(), **place))
            tree = library.get_cached_repo_tree(repo, revision=pinned, cache_dir=place["cache_dir"])
            _judge(where, small, [entry.path for entry in tree], code_allowed=code_allowed)
            bar = _progress_bar(lambda done, total: emit("phase", phase=f"fetching {repo}", done=done, total=total))
            folder = Path(
                library.snapshot_download(
                    repo, allow_patterns=wanted, ignore_patterns=UNWANTED, tqdm_class=bar, max_workers=4, **place
                )
            )
        return str(pinned.resolved), folder


def _api(hub: HubAccess) -> tuple[Any, Any]:
    try:
        import huggingface_hub  # noqa: PLC0415  (an optional part; and half a second that few callers need)
    except ImportError:
        raise UnavailableError(
            "fetching a base model needs huggingface_hub, which is not installed.",
            hint="Run: pip install 'celora[train]'",
        ) from None
    return huggingface_hub.HfApi(endpoint=hub.endpoint, library_name="celora"), huggingface_hub


def _cached(library: Any, repo: str, wanted: list[str], place: dict[str, Any]) -> Path | None:
    """Return the commit's folder if it holds every wanted file; the network is not used."""
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError  # noqa: PLC0415  (as above)

    try:
        library.get_cached_repo_tree(repo, revision=place["revision"], cache_dir=place["cache_dir"])
        return Path(
            library.snapshot_download(
                repo, allow_patterns=wanted, ignore_patterns=UNWANTED, local_files_only=True, **place
            )
        )
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return None


def _judge(where: str, folder: Path, names: list[str], *, code_allowed: bool) -> None:
    """Refuse an unsafe repository by its file list and configuration, before the weights are fetched."""
    top = [name for name in names if "/" not in name]
    if not WEIGHTS.intersection(top):
        raise no_safetensors(where, top)
    configs = [read_json(folder / name) for name in CONFIGS if (folder / name).is_file()]
    refuse_unsafe(where, configs, top, code_allowed=code_allowed)


@contextmanager
def _explained(repo: str, where: str, hub: HubAccess, cache: Path) -> Generator[None]:
    """Translate each error of huggingface_hub into one sentence with a next step."""
    from huggingface_hub import errors  # noqa: PLC0415  (as above)

    try:
        yield
    except errors.GatedRepoError as error:
        raise BaseModelError(
            f"the base model {repo} is gated, and the hub refused access with the secret HF_TOKEN "
            f"({'set' if os.environ.get('HF_TOKEN') else 'not set'}).",
            hint=GATED_HINT,
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BaseModelError(
            f"the base model {repo} has no revision {where.removeprefix(f'{repo} at ')!r}.",
            hint=f"Look at the branches and commits at {hub.endpoint}/{repo}/commits/main.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BaseModelError(
            f"the hub {hub.endpoint} has no model {repo}, or it is private and may not be seen; {_no_folder(repo)}.",
            hint="Look at the spelling; for a private model run: celora secret set HF_TOKEN",
        ) from error
    except (errors.RevisionResolutionError, errors.LocalEntryNotFoundError) as error:
        reason = "this installation is offline" if hub.offline else f"the hub {hub.endpoint} can't be reached"
        raise _not_cached(repo, where, reason) from error
    except errors.HfHubHTTPError as error:
        raise BaseModelError(
            f"the hub {hub.endpoint} refused {where}: {str(error).splitlines()[0]}",
            hint="Try again later; if it stays, look at CELORA_HUB_ENDPOINT and the secret HF_TOKEN.",
        ) from error
    except OSError as error:
        if is_no_space(error):
            raise disk_full(cache, what=where, error=error, hint=FULL_HINT) from error
        raise


def _not_cached(repo: str, where: str, reason: str) -> BaseModelError:
    return BaseModelError(
        f"the base model {where} is not in the cache, and {reason}; {_no_folder(repo)}.",
        hint="Fetch it while the hub can be reached: celora bases add NAME",
    )


def _no_folder(repo: str) -> str:
    """Return the sentence that this machine has no such folder; it names the machine, since a job may run elsewhere."""
    return f"there is no folder {Path(repo).absolute()} on {socket.gethostname()} either"


def _silent_bar() -> type[Any]:
    return _progress_bar(lambda _done, _total: None)


def _progress_bar(report: Callable[[int, int | None], None]) -> type[Any]:
    """Make a tqdm class that prints nothing and reports bytes, at most twice a second and once at the end."""
    from tqdm import tqdm  # noqa: PLC0415  (comes with huggingface_hub)

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._bytes = str(options.get("desc", "")).startswith("Reconstructing")
            self._told_at = 0.0
            options.pop("name", None)
            super().__init__(*args, **(options | {"file": io.StringIO(), "disable": False}))

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            done, total = int(self.n), int(self.total or 0)
            if self._bytes and (done >= total or time.monotonic() - self._told_at > 0.5):  # noqa: PLR2004  (above)
                self._told_at = time.monotonic()
                report(done, total or None)
            return shown

    return Bar
