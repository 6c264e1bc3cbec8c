"""Stores the base's losses and answers on a held-out set, for the next adapter that is measured on the same rows.

The base side of a comparison does not depend on the adapter. The key of an entry is a digest of everything that
determines the base side: the base, its quantization and dtype, the rows, the tokenizer, the limits, the shapes of the
batches, the versions of the libraries, the device and its arithmetic. An entry is a JSON file below the installation's
cache; an unreadable entry is measured again. No torch here: every worker sweeps the entries.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from ...storage.manifest import file_sha256

if TYPE_CHECKING:
    from ..batches.row_losses import RowLosses
    from .generate import Answers

FOLDER = "base-results"
DAY_S = 86400
LAYOUT = 2
"""Version of the entries, raised when the same facts give other numbers or texts."""


@dataclass(frozen=True)
class BaseResult:
    """The base's side of an evaluation on one held-out set.

    Attributes:
        losses: The losses of every row.
        answers: The answers to the prompts of the answered rows; None where the job asks for no answers.
    """

    losses: "RowLosses"
    answers: "Answers | None"

    @classmethod
    def of_json(cls, text: str) -> Self:
        """Build a result from the JSON form of ``asdict``."""
        from ..batches.row_losses import RowLosses  # noqa: PLC0415  (imports torch)
        from .generate import Answers  # noqa: PLC0415  (the same)

        stored = json.loads(text)
        answers = stored["answers"]
        return cls(RowLosses(**stored["losses"]), None if answers is None else Answers(**answers))


class BaseResults:
    """Reads and writes the entries of one installation.

    Args:
        cache: The installation's cache.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache / FOLDER

    def read(self, key: str) -> BaseResult | None:
        """Return an entry and record its use; None where no readable entry exists."""
        path = self._folder / f"{key}.json"
        try:
            found = BaseResult.of_json(path.read_text(encoding="utf-8"))
            os.utime(path)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def write(self, key: str, result: BaseResult) -> None:
        """Store an entry; where the disk is full or read-only, nothing is stored."""
        aside = self._folder / f".{uuid4().hex}"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(asdict(result)), encoding="utf-8")
            aside.replace(self._folder / f"{key}.json")
            return
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def key_of(facts: Mapping[str, Any], files: list[Path]) -> str:
    """Return the key of an entry.

    Args:
        facts: Everything except the files that determines the result, in types of JSON.
        files: The files of the rows and the tokenizer.
    """
    digests = {path.name: file_sha256(path) for path in files if path.is_file()}
    text = json.dumps({**facts, "files": digests, "layout": LAYOUT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def sweep(cache: Path, keep_days: float) -> int:
    """Remove the entries that were unused for so many days; return the number of freed bytes."""
    oldest, freed = time.time() - keep_days * DAY_S, 0
    for path in (cache / FOLDER).glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another sweep removed it first
            facts = path.stat()
            if facts.st_mtime < oldest:
                path.unlink()
                freed += facts.st_size
    return freed
