"""Fetches the files of one configuration and split of a hub dataset, and joins them to one local file.

Only data files are ever fetched, and never code: a dataset that is a script has none and is refused. splits.py chooses
the files.
"""

import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ...errors import CeloraError, DataError, LimitError, UnavailableError
from ..phases import PhaseProgress
from ..protocol import Emit, HubAccess
from .splits import CARD, CARD_BYTES, Part, choose_files
from .suffixes import suffix_of

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,200}")
WORD = re.compile(r"[A-Za-z0-9][\w.-]{0,200}")
KEYS = ("config", "split", "revision")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """Names a dataset by its id, and the part of it to read."""

    repo: str
    config: str | None
    split: str
    revision: str | None

    @classmethod
    def parse(cls, source: str) -> "HubDataset":
        """Read ``hub:OWNER/NAME?config=C&split=S&revision=R``.

        Raises:
            DataError: The source has another form.
        """
        repo, _, query = source.removeprefix("hub:").partition("?")
        try:
            pairs = parse_qsl(query, strict_parsing=True) if query else []
        except ValueError:
            pairs = [("", query)]
        asked = dict(pairs)
        good = len(asked) == len(pairs) and asked.keys() <= set(KEYS)
        good = good and all((REVISION if key == "revision" else WORD).fullmatch(asked[key]) for key in asked)
        if not good or not REPOSITORY.fullmatch(repo) or ".." in source:
            raise DataError(
                f"{source!r} names no dataset of the hub.",
                hint="Write hub:OWNER/NAME, or hub:OWNER/NAME?config=main&split=train&revision=COMMIT.",
            )
        return cls(repo, asked.get("config"), asked.get("split", "train"), asked.get("revision"))

    @property
    def file_name(self) -> str:
        """Return the name of the dataset's rows in a receipt, without a suffix."""
        return "-".join(filter(None, (self.repo.replace("/", "--"), self.config, self.split)))


def fetch_hub_dataset(dataset: HubDataset, folder: Path, hub: HubAccess, most_bytes: int, emit: Emit) -> Path:
    """Download the files of one split, and join them if there are several.

    Args:
        dataset: The dataset and its part.
        folder: The folder for the files.
        hub: The address of the hub; the token comes from HF_TOKEN.
        most_bytes: Largest total size; 0 for no limit.
        emit: Receives the progress, in files.

    Returns:
        One file with all rows, in the order of the files' names.

    Raises:
        DataError: The dataset, revision, configuration or split does not exist, or it has no data files.
        LimitError: The dataset is larger than allowed.
        UnavailableError: The hub can't be reached, or huggingface_hub is not installed.
    """
    if hub.offline:
        raise UnavailableError(f"hub:{dataset.repo} can't be fetched: this installation is offline.",
                               hint="Submit a local file.")  # fmt: skip
    try:
        import huggingface_hub  # noqa: PLC0415  (an optional part; and half a second)
    except ImportError:
        raise UnavailableError("fetching a dataset of the hub needs huggingface_hub, which is not installed.",
                               hint="Run: pip install 'celora[train]'") from None  # fmt: skip
    token: Any = os.environ.get("HF_TOKEN") or False
    with _explained(dataset, hub):
        api: Any = huggingface_hub.HfApi(endpoint=hub.endpoint, token=token, library_name="celora")
        info: Any = api.dataset_info(dataset.repo, revision=dataset.revision, files_metadata=True)
        found: list[Any] = info.siblings or []
        sizes: dict[str, int] = {entry.rfilename: entry.size or 0 for entry in found}

        def download(name: str) -> Path:
            return Path(
                api.hf_hub_download(
                    dataset.repo, name, repo_type="dataset", revision=info.sha, local_dir=folder / "files"
                )
            )

        small = 0 < sizes.get(CARD, 0) <= CARD_BYTES
        card = download(CARD).read_text(encoding="utf-8", errors="replace") if small else ""
        part = Part(f"hub:{dataset.repo}", dataset.config, (dataset.split,))
        names = choose_files(part, list(sizes), card)
        if most_bytes and sum(sizes[name] for name in names) > most_bytes:
            raise LimitError(
                f"hub:{dataset.repo} has {sum(sizes[name] for name in names) / 2**30:.3g} GiB of {dataset.split} rows, "
                f"more than {most_bytes / 2**30:.3g} GiB.",
                hint="Take a smaller part of it, or let an operator raise CELORA_PREPARE_FILE_BYTES.",
            )
        progress = PhaseProgress(emit, f"fetch {dataset.repo} ({dataset.split}), files", len(names))
        paths: list[Path] = []
        for name in names:
            paths.append(download(name))
            progress.at(len(paths))
        progress.end()
    return _joined(dataset, paths, folder)


def _joined(dataset: HubDataset, paths: list[Path], folder: Path) -> Path:
    """Return one file under the dataset's own name: a single file as it is, several joined to one ``.jsonl``."""
    if len(paths) == 1:
        return paths[0].rename(folder / f"{dataset.file_name}{suffix_of(paths[0].name)}")
    from .readers import join  # noqa: PLC0415  (a program that only judges a source needs no reader)

    whole = folder / f"{dataset.file_name}.jsonl"
    join({path.name: path for path in paths}, whole, dataset=f"hub:{dataset.repo}")
    shutil.rmtree(folder / "files")
    return whole


@contextmanager
def _explained(dataset: HubDataset, hub: HubAccess) -> Generator[None]:
    """Translate the errors of huggingface_hub into one sentence with a remedy."""
    from huggingface_hub import errors  # noqa: PLC0415  (as above)

    try:
        yield
    except errors.GatedRepoError as error:
        raise DataError(
            f"the dataset hub:{dataset.repo} is gated, and the hub refused access.",
            hint="Accept its terms on the hub, make a read token there, then run: celora secret set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"the dataset hub:{dataset.repo} has no revision {dataset.revision!r}.",
                        hint="Look at its branches and commits.") from error  # fmt: skip
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"the hub {hub.endpoint} has no dataset {dataset.repo}, or it is private and may not be seen.",
            hint="Look at the spelling; for a private one run: celora secret set HF_TOKEN",
        ) from error
    except CeloraError:
        raise
    except Exception as error:  # the web library under it raises errors of its own
        raise UnavailableError(
            f"the hub {hub.endpoint} did not give hub:{dataset.repo} ({' '.join(str(error).split())[:200]}).",
            hint="Try again later; if it stays, look at CELORA_HUB_ENDPOINT and the secret HF_TOKEN.",
        ) from error
