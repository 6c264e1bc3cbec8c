"""Judges the names of local sources: kinds of files that hold rows, folders, patterns. A name needs no reader."""

import re
from pathlib import Path

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PATTERN = re.compile(r"[*?\[]")


def suffix_of(name: str) -> str:
    """Returns the suffix that tells a file's kind: ``.csv``, ``.jsonl.gz``; empty where no known suffix is there."""
    lower = name.lower()
    packed = ".gz" if lower.endswith(".gz") else ""
    kind = Path(lower.removesuffix(".gz")).suffix
    return kind + packed if kind in SUFFIXES else ""


def is_several(source: str) -> bool:
    """Returns whether a local source is a folder or a pattern, which may stand for several files."""
    return _is_folder(source) or (bool(PATTERN.search(source)) and not _exists(source))


def fixed_folder(source: str) -> str:
    """Returns the folder below which all parts of a source lie: the folder itself, or a pattern's without its marks."""
    if not PATTERN.search(source) or _is_folder(source):
        return source
    steps = Path(source).parts
    fixed = next(number for number, step in enumerate(steps) if PATTERN.search(step))
    return str(Path(*steps[:fixed]))


def dataset_name(source: str) -> str:
    """Returns the name of a source of several files for people: its folder's, or the fixed letters of its pattern."""
    if Path(source).is_dir():
        return Path(source).resolve().name or "dataset"
    letters = re.sub(r"\[[^\]]*\]|[*?\[\]]", "", Path(source).name.partition(".")[0]).strip("-_.")
    return letters or Path(fixed_folder(source)).resolve().name or "dataset"


def _is_folder(source: str) -> bool:
    try:
        return Path(source).is_dir()
    except OSError:  # a name that no file can have
        return False


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError:
        return False
