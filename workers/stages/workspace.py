"""Manages the folders of one attempt: a local scratch folder, and folders of the same names below the artifact root.

The trainer writes locally; the worker uploads, the manifest last. A file becomes the job's only by the record, so the
uploads of a fenced attempt stay in that attempt's own folder and belong to no job.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from ...settings.failpoints import hit
from ...settings.settings import Settings
from ...storage.artifacts import Artifacts
from ...storage.disk_space import room
from ...storage.manifest import MANIFEST, write_manifest
from ..trainer.log_files import mask


class Workspace:
    """Names the folders of one attempt, and moves files between them.

    Args:
        settings: Settings of the installation.
        job_id: The job.
        attempt: Its attempt.
    """

    def __init__(self, settings: Settings, job_id: str, attempt: int) -> None:
        self.artifacts = Artifacts(settings.artifacts)
        self.scratch = settings.scratch / job_id / f"attempt-{attempt}"
        self._job_id, self._attempt = job_id, attempt

    def local(self, *names: str) -> Path:
        """Return the path of a folder of this attempt in the scratch; its parent is created."""
        path = self.scratch.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def uri(self, *names: str) -> str:
        """Return the URI of the same folder below the artifact root."""
        return self.artifacts.uri("jobs", self._job_id, f"attempt-{self._attempt}", *names)

    def holds(self, uri: str) -> bool:
        """Return whether a URI lies below the artifact root."""
        return self.artifacts.holds(uri)

    def upload(self, *names: str) -> str:
        """Upload a folder of this attempt, its manifest last, and return its URI."""
        folder, target = self.local(*names), self.uri(*names)
        if not (folder / MANIFEST).exists():
            write_manifest(folder)
        hit("upload.begin")
        self.artifacts.put_folder(folder, target)
        hit("upload.done")
        return target

    def fetch(self, uri: str, *names: str) -> Path:
        """Fetch a committed folder and return the local one; no copy is made where the root is local."""
        there = self.artifacts.local_path(uri)
        if there is not None:
            return there
        target = self.local("fetched", *names)
        shutil.rmtree(target, ignore_errors=True)
        self.artifacts.get_folder(uri, target)
        return target

    def fetch_file(self, source: str, name: str) -> Path:
        """Fetch an artifact by its URI and return the local path; a source that is a path is returned as it is."""
        if "://" not in source:
            return Path(source)
        there = self.artifacts.local_path(source)
        if there is not None:
            return there
        target = self.local("fetched", name)
        self.artifacts.get_file(source, target)
        return target

    def keep_receipt(self, receipt: dict[str, Any]) -> None:
        """Store the receipt of the data with the job, also where the data is refused."""
        path = self.local("receipt.json")
        with room(path.parent, what="the receipt"):
            path.write_text(json.dumps(receipt, ensure_ascii=False, indent=1), encoding="utf-8")
        self.artifacts.put_file(path, self.uri("receipt.json"))

    def log(self, stage: str) -> Path:
        """Return the path of a stage's log: below the artifact root where that is local, else in the scratch."""
        there = self.artifacts.local_path(self.log_uri(stage))
        path = there if there is not None else self.local("logs", f"{self._attempt:03d}-{stage}.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log_uri(self, stage: str) -> str:
        """Return the URI of a stage's log."""
        return self.artifacts.uri("jobs", self._job_id, "logs", f"{self._attempt:03d}-{stage}.log")

    def keep_log(self, stage: str) -> None:
        """Mask the secrets in a stage's log, and upload the log where the root is not local."""
        path = self.log(stage)
        mask(path)
        if self.artifacts.local_path(self.log_uri(stage)) is None and path.exists():
            self.artifacts.put_file(path, self.log_uri(stage))

    def clear(self) -> None:
        """Remove this attempt's scratch."""
        shutil.rmtree(self.scratch, ignore_errors=True)
