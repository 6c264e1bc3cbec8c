"""Chooses the data files of one configuration and split among the names of a dataset's files.

The ``datasets`` library decides which files belong together: the card's ``configs``, else the names of the files and
folders. A configuration that no card declares is a folder of that name. The library sees the names alone, in a file
system in memory: nothing is fetched, and no pattern of a card can reach another place.
"""

import re
import uuid
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import yaml

from ...errors import DataError, UnavailableError
from .suffixes import SUFFIXES, suffix_of

DEFAULT = "default"
CARD = "README.md"
CARD_BYTES = 10 * 2**20
"""Largest card that is read; cards have some kilobytes."""


METADATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""Files that the library ``datasets`` writes beside the rows."""


@dataclass(frozen=True, slots=True)
class Part:
    """Names the part of a dataset to read.

    Attributes:
        dataset: The dataset as its user wrote it; for messages.
        config: The configuration; None for the default one.
        splits: The split to read; of several, the first that exists.
    """

    dataset: str
    config: str | None
    splits: tuple[str, ...]


def data_names(names: Iterable[str]) -> list[str]:
    """Returns the names of files of rows among the names of files, sorted."""
    seen = sorted(name for name in names if suffix_of(name) and not Path(name).name.startswith((".", "_")))
    return [name for name in seen if Path(name).name not in METADATA]


def choose_files(part: Part, names: Sequence[str], card: str) -> list[str]:
    """Returns the data files of a configuration and split, sorted, as ``datasets`` resolves them.

    Args:
        part: The part of the dataset.
        names: The names of all files of the dataset, relative to its root.
        card: The text of its README.md; empty where it has none.

    Raises:
        DataError: No data file belongs to it; the message lists the configurations or splits that exist.
    """
    data = data_names(names)
    if not data:
        raise DataError(
            f"{part.dataset} has no data files that can be read, and its code, if it has any, is never run.",
            hint=f"Take one with {', '.join(SUFFIXES)} files.",
        )
    splits = _splits(part, data, card)
    for split in part.splits:
        if split in splits:
            return splits[split]
    raise DataError(
        f"{part.dataset} has no split {part.splits[0]!r}; it has {', '.join(sorted(splits)) or 'none'}.",
        hint="Name one: hub:OWNER/NAME?split=NAME; of a folder here, name the files: 'FOLDER/NAME-*.parquet'.",
    )


def _resolution() -> Any:
    """Returns the data-files resolution of ``datasets``; imported by name, since the library carries no types."""
    try:
        return import_module("datasets.data_files")  # late: it takes a second to load
    except ImportError:
        raise UnavailableError(
            "reading a dataset of several files needs the library datasets, which is not installed.",
            hint="Run: pip install 'celora[train]'",
        ) from None


def _splits(part: Part, data: list[str], card: str) -> dict[str, list[str]]:
    """Returns the data files of each split of the dataset's configuration."""
    data_files = _resolution()

    configuration = _configuration(part, card)
    with _names_alone(data) as root:
        if configuration is not None:
            patterns = data_files.sanitize_patterns(configuration)
            found = {split: _matching(root, [str(one) for one in paths]) for split, paths in patterns.items()}
            return {str(split): files for split, files in found.items() if files}
        folder = "" if part.config in (None, DEFAULT) else f"{part.config}/"
        if folder and not any(f"/{name}".startswith(f"/{folder}") for name in data):
            folders = sorted({step for name in data for step in name.split("/")[:-1]})
            raise DataError(
                f"{part.dataset} has no configuration {part.config!r}.",
                hint=f"Its folders are {', '.join(folders)}." if folders else "Leave config away.",
            )
        patterns = data_files.get_data_patterns(f"{root}{folder}")
        return {str(split): _matching(root, paths, folder) for split, paths in patterns.items()}


def _configuration(part: Part, card: str) -> Any:
    """Returns the ``data_files`` of the dataset's configuration from the card's head; None where the card has none."""
    reader: Any = import_module("datasets.utils.metadata").MetadataConfigs
    head = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        told: Any = yaml.safe_load(head[1]) if head else None
        listed: Any = cast("dict[str, Any]", told).get("configs") if isinstance(told, dict) else None
        entries = [{key: value for key, value in one.items() if key != "features"} for one in listed or ()]
        configurations = reader.from_dataset_card_data({"configs": entries})
        default = configurations.get_default_config_name()
    except (yaml.YAMLError, ValueError, TypeError, AttributeError):  # a card of another structure
        return None
    with_files = {name: entry["data_files"] for name, entry in configurations.items() if entry.get("data_files")}
    name = part.config or default
    if with_files and name not in with_files:
        raise DataError(
            f"{part.dataset} has the configurations {', '.join(sorted(with_files))}"
            + (f", and none called {name}." if name else "."),
            hint="Name one: ?config=NAME.",
        )
    return with_files[name] if with_files and name else None


@contextmanager
def _names_alone(names: Iterable[str]) -> Generator[str]:
    """Creates a folder of empty files of these names in memory, and yields the folder's URL."""
    from fsspec.implementations.memory import MemoryFileSystem  # noqa: PLC0415  (as above)  # pyright: ignore[reportMissingTypeStubs]

    files: Any = MemoryFileSystem()
    root = f"/{uuid.uuid4().hex}/"
    try:
        for name in names:
            files.pipe_file(root + name, b"")
        yield f"memory://{root}"
    finally:
        files.rm(root, recursive=True)


def _matching(root: str, patterns: Iterable[str], folder: str = "") -> list[str]:
    """Returns the names below a folder that match a pattern, sorted; a pattern that leaves the folder matches none."""
    data_files = _resolution()
    found: set[str] = set()
    for pattern in patterns:
        if "://" in pattern or "::" in pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            continue
        with suppress(FileNotFoundError):
            found.update(data_files.resolve_pattern(pattern, f"{root}{folder}"))
    return sorted(path.removeprefix(root) for path in found if path.startswith(root))
