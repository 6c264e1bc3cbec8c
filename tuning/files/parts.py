"""Finds and reads a dataset of several files: a local folder, or the files that a pattern matches.

A folder is read as a dataset of the hub is: ``splits.py`` chooses its files, and no code in it is run. The parts are
laid out as links in a folder of their own (``source_files.py``), so that each is judged by its open descriptor. Rows
are numbered through all parts; a fault names its part and its line there too.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import DataError
from ...storage.manifest import file_sha256
from ...storage.regular_files import open_confined, open_regular
from .faults import BadLine
from .record import Container, Record
from .splits import CARD, CARD_BYTES, Part, choose_files, data_names
from .suffixes import SUFFIXES, fixed_folder, suffix_of

TRAIN_SPLITS, HELD_OUT_SPLITS = ("train",), ("test", "validation", "train")
MOST_PARTS = 500
"""Each part is held open while the rows are read, and a process may have 1024 files open."""
MOST_NAMES = 100_000
SHOWN_NOTES = 10


def parts_of(source: str, *, held_out: bool = False, roots: Iterable[Path] | None = None) -> dict[str, Path]:
    """Finds the files of a folder or pattern.

    Args:
        source: The folder or pattern.
        held_out: True for rows to measure on: of a folder, its split ``test`` or ``validation`` then comes first.
        roots: The folders below which a folder's card must lie to be read; None allows every place.

    Returns:
        Each file by its path inside the folder, sorted.

    Raises:
        DataError: No file belongs to it, or too many do.
    """
    root = Path(fixed_folder(source)).absolute()
    is_folder = Path(source).is_dir()
    names = _chosen(source, root, held_out=held_out, roots=roots) if is_folder else _matching(source, root)
    if len(names) > MOST_PARTS:
        raise DataError(
            f"{source} has {len(names):,} data files, and at most {MOST_PARTS} are read as one dataset.",
            hint="Join them to fewer files.",
        )
    return {name: root / name for name in names}


def _chosen(source: str, root: Path, *, held_out: bool, roots: Iterable[Path] | None) -> list[str]:
    names = _names(root)
    if len(names) > MOST_NAMES:
        raise DataError(f"{source} holds more than {MOST_NAMES:,} files.", hint="Name the folder of the data alone.")
    if any(name.endswith(".arrow") for name in names) and not data_names(names):
        raise DataError(
            f"{source} holds Arrow files, as save_to_disk writes them.",
            hint="Write it with to_parquet or to_json: load_from_disk(FOLDER).to_parquet('train.parquet').",
        )
    words = _card_words(root / CARD, roots)
    return choose_files(Part(source, None, HELD_OUT_SPLITS if held_out else TRAIN_SPLITS), names, words)


def _card_words(card: Path, roots: Iterable[Path] | None) -> str:
    """Reads a folder's card; empty where there is none, or where it is too large or no file that may be read."""
    if not card.is_file():
        return ""
    try:
        with open_regular(card) if roots is None else open_confined(str(card), roots) as file:
            words = file.read(CARD_BYTES + 1)
    except DataError:
        return ""
    return words.decode(errors="replace") if len(words) <= CARD_BYTES else ""


def _names(root: Path) -> list[str]:
    """Lists the files below a folder, without hidden ones and what they hold; links to folders are not followed."""
    found: list[str] = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        here = Path(folder).relative_to(root)
        found += [(here / name).as_posix() for name in sorted(names) if not name.startswith(".")]
        if len(found) > MOST_NAMES:
            break
    return found


def _matching(source: str, root: Path) -> list[str]:
    marks = Path(source).absolute().relative_to(root).as_posix()
    if ".." in Path(marks).parts:
        raise DataError(
            f"the pattern {source} has .. behind a mark, and would leave its own folder.",
            hint="Write the path without .., for example with its full folder.",
        )
    matches = [path for path in root.glob(marks) if path.is_file() and not path.name.startswith(".")]
    names = sorted(path.relative_to(root).as_posix() for path in matches if suffix_of(path.name))
    if not names:
        other = f" ({len(matches)} of other kinds do)" if matches else ""
        raise DataError(
            f"no data file matches {source}{other}.",
            hint=f"Look at the pattern with ls; data files end in {', '.join(SUFFIXES)}, or in one of these and .gz.",
        )
    return names


def files_of(folder: Path) -> list[Path]:
    """Returns the parts in a folder of parts, in their order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def content_sha256(path: Path) -> str:
    """Hashes a file's content; of a folder of parts, the content of every part in order."""
    if not path.is_dir():
        return file_sha256(path)
    digests = (f"{part.relative_to(path).as_posix()}\0{file_sha256(part)}\n" for part in files_of(path))
    return hashlib.sha256("".join(digests).encode(errors="surrogateescape")).hexdigest()


def content_bytes(path: Path) -> int:
    """Returns the size of a file, or of all parts in a folder of parts."""
    return sum(part.stat().st_size for part in files_of(path)) if path.is_dir() else path.stat().st_size


@dataclass(slots=True)
class PartsFile:
    """Reads the parts in a folder one after the other; iterating yields their rows and bad lines.

    Attributes:
        lines: Rows and bad lines read so far, of all parts together.
    """

    path: Path
    open_part: Callable[[Path], Container]
    lines: int = 0
    blank: int = 0
    done_bytes: int = 0
    notes: list[str] = field(default_factory=list[str])

    def __iter__(self) -> Iterator[Record | BadLine]:
        parts = files_of(self.path)
        if not parts:
            raise DataError(f"{self.path} is a folder without a data file.", hint="Name a data file, or their folder.")
        self.notes = [f"the rows of {len(parts)} files, in the order of their names; rows are numbered through all"]
        for part in parts:
            name, before = part.relative_to(self.path).as_posix(), self.done_bytes
            rows, first = self.open_part(part), self.lines + 1
            for record in rows:
                self.lines += 1
                self.done_bytes = before + rows.done_bytes
                yield self._numbered(record, name)
            self.done_bytes, self.blank = before + part.stat().st_size, self.blank + rows.blank
            self.notes.append(f"{name}: rows {first} to {self.lines}")
            self.notes += [f"{name}: {note}" for note in rows.notes]
        if len(self.notes) > SHOWN_NOTES:
            self.notes = [*self.notes[:SHOWN_NOTES], f"and {len(self.notes) - SHOWN_NOTES} notes more"]

    def _numbered(self, record: Record | BadLine, name: str) -> Record | BadLine:
        if isinstance(record, Record):
            return Record(self.lines, record.value, f"{name}, line {record.number}")
        return replace(record, line=self.lines, reason=f"{record.reason} ({name}, line {record.line})")
