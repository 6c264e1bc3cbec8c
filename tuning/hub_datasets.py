"""Datasets of the hub: which files a configuration and a split consist of, and one local file made of them.

Only data files are ever fetched, and never code: a dataset that is a script has none and is refused. The card's
``configs`` say which files belong together; without them the files' names do, as in the ``datasets`` library (a word
like ``train``, ``test``, ``validation`` or ``dev`` in the path, a folder named like the configuration).
"""

import json
import os
import re
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import yaml

from ..settings.errors import CeloraError, DataError, LimitError, UnavailableError
from .containers import CONTAINERS, container, suffix_of
from .faults import BadLine
from .progress import PhaseProgress
from .protocol import Emit, HubAccess

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,200}")
WORD = re.compile(r"[A-Za-z0-9][\w.-]{0,200}")
KEYS = ("config", "split", "revision")
DEFAULT = "default"
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset's id, and which part of it."""

    repo: str
    config: str | None
    split: str
    revision: str | None

    @classmethod
    def parse(cls, source: str) -> "HubDataset":
        """Read ``hub:OWNER/NAME?config=C&split=S&revision=R``.

        Raises:
            DataError: It is written in another way.
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
        """What its rows are called in a receipt, without a suffix."""
        return "-".join(filter(None, (self.repo.replace("/", "--"), self.config, self.split)))


def fetch_hub_dataset(dataset: HubDataset, folder: Path, hub: HubAccess, most_bytes: int, emit: Emit) -> Path:
    """Download the files of one split, and join them where there are several.

    Args:
        dataset: Which.
        folder: Where they go.
        hub: Where the hub is; the token comes from HF_TOKEN.
        most_bytes: So many bytes at most; 0 for no limit.
        emit: Told of the progress, in files.

    Returns:
        One file with all rows, in the order of the files' names.

    Raises:
        DataError: There is no such dataset, revision, configuration or split, or it has no data files.
        LimitError: It is larger than it may be.
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

        card = download(CARD).read_text(encoding="utf-8", errors="replace") if CARD in sizes else ""
        names = choose_files(dataset, list(sizes), card)
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


def choose_files(dataset: HubDataset, names: list[str], card: str) -> list[str]:
    """The data files of a dataset's configuration and split, sorted.

    Raises:
        DataError: There are none; the message says what there is.
    """
    data = sorted(name for name in names if suffix_of(name) and not Path(name).name.startswith((".", "_")))
    data = [name for name in data if Path(name).name not in ("dataset_infos.json", "dataset_dict.json", "state.json")]
    if not data:
        raise DataError(
            f"hub:{dataset.repo} has no data files that can be read, and its code, if it has any, is never run.",
            hint=f"Take one with {', '.join(CONTAINERS)} files.",
        )
    splits = _by_card(dataset, data, card) or _by_name(dataset, data)
    if dataset.split not in splits:
        raise DataError(
            f"hub:{dataset.repo} has no split {dataset.split!r}; it has {', '.join(sorted(splits)) or 'none'}.",
            hint="Name one: ?split=NAME.",
        )
    return splits[dataset.split]


def _by_card(dataset: HubDataset, data: list[str], card: str) -> dict[str, list[str]] | None:
    """Splits of the configuration as the card's head tells them; None where it tells none."""
    head = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        told: Any = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return None
    listed: Any = cast("dict[str, Any]", told).get("configs") if isinstance(told, dict) else None
    if not isinstance(listed, list):
        return None
    entries = [cast("dict[str, Any]", one) for one in cast("list[Any]", listed) if isinstance(one, dict)]
    configs = {str(entry.get("config_name", DEFAULT)): entry for entry in entries if entry.get("data_files")}
    if not configs:
        return None
    flagged = next((name for name, entry in configs.items() if entry.get("default") is True), None)
    only = next(iter(configs)) if len(configs) == 1 else None
    name = dataset.config or flagged or (DEFAULT if DEFAULT in configs else only)
    if name not in configs:
        raise DataError(
            f"hub:{dataset.repo} has the configurations {', '.join(sorted(configs))}"
            + (f", and none called {name}." if name else "."),
            hint="Name one: ?config=NAME.",
        )
    return _matched(configs[name], data)


def _matched(config: dict[str, Any], data: list[str]) -> dict[str, list[str]]:
    given: Any = config["data_files"]
    listed: list[Any] = cast("list[Any]", given) if isinstance(given, list) else [given]
    splits: dict[str, list[str]] = {}
    for entry in listed:
        told: dict[str, Any] = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {"path": entry}
        split, paths = str(told.get("split", "train")), told.get("path", [])
        patterns = [str(path) for path in cast("Iterable[Any]", paths if isinstance(paths, list) else [paths])]
        found = [name for name in data if any(fnmatchcase(name, pattern.replace("**/", "*")) for pattern in patterns)]
        splits.setdefault(split, []).extend(found)
    return {split: names for split, names in splits.items() if names}


def _by_name(dataset: HubDataset, data: list[str]) -> dict[str, list[str]]:
    if dataset.config not in (None, DEFAULT):
        inside = [name for name in data if dataset.config in name.split("/")[:-1]]
        if not inside:
            folders = sorted({part for name in data for part in name.split("/")[:-1]})
            raise DataError(
                f"hub:{dataset.repo} has no configuration {dataset.config!r}.",
                hint=f"Its folders are {', '.join(folders)}." if folders else "Leave config away.",
            )
        data = inside
    splits: dict[str, list[str]] = {}
    for name in data:
        words = set(re.split(r"[^a-z]+", name.lower()))
        for split, synonyms in SPLITS.items():
            if words & set(synonyms):
                splits.setdefault(split, []).append(name)
                break
    return splits or {"train": data}


def _joined(dataset: HubDataset, paths: list[Path], folder: Path) -> Path:
    """One file under the dataset's own name: the only one as it is, several as one ``.jsonl``."""
    if len(paths) == 1:
        return paths[0].rename(folder / f"{dataset.file_name}{suffix_of(paths[0].name)}")
    whole = folder / f"{dataset.file_name}.jsonl"
    with whole.open("w", encoding="utf-8") as file:
        for path in paths:
            for record in container(path):
                if isinstance(record, BadLine):
                    raise DataError(f"hub:{dataset.repo}, {path.name}: {record}.", hint="Take another revision of it.")
                file.write(json.dumps(record.value, ensure_ascii=False, default=_as_text) + "\n")
    shutil.rmtree(folder / "files")
    return whole


def _as_text(value: object) -> str | None:
    """What JSON does not know: times and decimals as text, bytes (images, sound) not at all."""
    return None if isinstance(value, bytes) else str(value)


@contextmanager
def _explained(dataset: HubDataset, hub: HubAccess) -> Generator[None]:
    """Translate what huggingface_hub raises into one sentence with a way out."""
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
