"""Finds the base and the adapter that a chat asks for: a base, an alias, or the tenant's own model or checkpoint."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from ...errors import NotFoundError, RequestError, SettingsError, StorageError
from ...models.adapters import lineage
from ...models.columns import quantization_of
from ...models.database import get_database
from ...models.scope.scope import Scope
from ...models.spec import PARENTS_BASE
from ...models.tables import Job
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ...storage.manifest import MANIFEST
from ...tuning.protocol import Base
from ..openai.model_names import choose, unknown

COPIES = 32
"""Fetched adapters that stay on this machine; one of rank 16 on 8B weights takes 170 MB."""


@dataclass(frozen=True, kw_only=True)
class TrainedAdapter:
    """The adapter of a trained model.

    Attributes:
        name: The job's id, with ``@STEP`` where a checkpoint is meant; it means these weights for ever.
        uri: Its folder in the artifacts.
        base: The base of its training.
        rank: The rank of its matrices.
        template: The template that the training named.
        quantization: Of the base in the training.
    """

    name: str
    uri: str
    base: Base
    rank: int
    template: str | None
    quantization: Literal["nf4", "none"]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model that a request asks for: the name of its base, and its adapter; None for the bare base."""

    asked: str
    base_name: str
    adapter: TrainedAdapter | None = None

    @property
    def base_names(self) -> set[str]:
        """The names under which another program may serve the base."""
        if self.adapter is None:
            return {self.base_name}
        return {self.base_name, self.adapter.base.name, self.adapter.base.source}


def find_model(tenant: str, asked: str, settings: Settings) -> ServedModel:
    """Find the model of a request.

    Raises:
        RequestError: No such model is known to this tenant, or its weights are gone (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        chosen = choose(session, tenant, asked, settings)
        if chosen.continue_from is None:
            return ServedModel(asked=asked, base_name=chosen.base)
        assert chosen.base == PARENTS_BASE  # noqa: S101  (a model of the tenant's own)
        try:
            found = lineage.find(session, tenant, chosen.continue_from, field="model")
        except (NotFoundError, SettingsError):  # a checkpoint that retention has removed, or a job that runs again
            raise unknown(asked) from None
        assert found is not None  # noqa: S101  (no name may be missing)
        job = session.get_one(Job, found.name.partition("@")[0])
        adapter = TrainedAdapter(
            name=found.name,
            uri=found.uri,
            base=found.base,
            rank=found.spec.rank,
            template=found.spec.template,
            quantization=quantization_of(job) or "nf4",
        )
    return ServedModel(asked=asked, base_name=found.base.name, adapter=adapter)


def local_folder(adapter: TrainedAdapter, settings: Settings) -> Path:
    """Return a local folder with an adapter's files; they are fetched once where the artifact root is elsewhere.

    Raises:
        RequestError: The files are gone (404).
        StorageError: The storage cannot be read, or the files are not those of the manifest.
    """
    artifacts = Artifacts(settings.artifacts)
    if not artifacts.committed(adapter.uri):
        raise RequestError("the files of the model are gone.", reason="model_not_found", param="model", status=404)
    there = artifacts.local_path(adapter.uri)
    if there is not None:
        return there
    target = settings.scratch / "chat" / adapter.name
    if not (target / MANIFEST).is_file():
        _fetch(artifacts, adapter.uri, target)
        _prune(target.parent)
    return target


def _prune(copies: Path) -> None:
    """Remove the copies beyond the newest ones; a model that is asked again is fetched again."""
    with suppress(FileNotFoundError):  # another process does the same
        whole = [one for one in copies.iterdir() if not one.name.startswith(".")]
        for copy in sorted(whole, key=lambda one: one.stat().st_mtime)[:-COPIES]:
            shutil.rmtree(copy, ignore_errors=True)


def _fetch(artifacts: Artifacts, uri: str, target: Path) -> None:
    """Fetch and verify a folder beside its target, and move it there; another process may do the same."""
    staged = target.with_name(f".{target.name}-{uuid4().hex[:8]}.part")
    staged.mkdir(parents=True)
    try:
        artifacts.get_folder(uri, staged)
        staged.rename(target)
        os.utime(target)
    except OSError as error:
        if not (target / MANIFEST).is_file():
            raise StorageError(f"{target} can't be written ({error}).") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
