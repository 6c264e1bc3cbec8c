"""Reads the dataset files of a job: each into a row store, with notes of its rows."""

import re
from collections.abc import Mapping
from pathlib import Path

from ...errors import DataError, SettingsError
from ..batches.prepared_set import TRAIN
from ..files.faults import BadLine
from ..files.parts import content_bytes
from ..phases import PhaseProgress
from ..protocol import Emit, PrepareRequest
from ..rows.data_file import DataFile, require_good
from ..rows.keys import UnknownKeys
from ..rows.preference import as_rows
from ..rows.row import Row
from ..rows.row_reader import rows
from . import preferences
from .findings import Notes
from .receipt import Survey, refused
from .row_store import RowStore
from .tokenize import report_bad

REPORTED_ROWS = 200
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read(
    path: Path, columns: Mapping[str, str], folder: Path, emit: Emit, *, unknown_keys: UnknownKeys = "warn"
) -> tuple[DataFile, Notes]:
    """Reads and checks every row of a file.

    Args:
        path: The file.
        columns: Our names to the file's.
        folder: The folder that stores the rows, in files without a name.
        emit: Receives the progress.
        unknown_keys: The treatment of keys that are neither read nor known to be harmless.

    Returns:
        The findings, whose ``rows`` are a store and whose ``pairs`` are a store of both sides of preference rows, and
        the notes.

    Raises:
        DataError: The file is missing, damaged, or of an unknown kind.
        SettingsError: ``columns`` names no format.
    """
    reading = rows(path, columns, unknown_keys=unknown_keys)
    notes, good, pairs = Notes(), RowStore(folder), RowStore(folder)
    progress = PhaseProgress(emit, f"read {path.name}", content_bytes(path))
    for count, example in enumerate(reading.examples()):
        if not count % REPORTED_ROWS:
            progress.at(reading.done_bytes)
        if isinstance(example, BadLine):
            continue  # counted in the reading's data
        notes.add(example)
        if isinstance(example, Row):
            good.append(example)
        else:
            for row in as_rows(example):
                pairs.append(row)
    progress.end()
    reading.data.rows, reading.data.pairs = good, pairs
    return reading.data, notes


def read_all(
    request: PrepareRequest, folder: Path, emit: Emit
) -> tuple[PrepareRequest, dict[str, DataFile], dict[str, Notes]]:
    """Reads and checks every file of a request.

    Returns:
        The request with the method in force, and by set the files and the notes of their rows.

    Raises:
        BadRowsError: Some lines cannot be used; each is named.
        DataError: A file is missing or unreadable, or has no rows for the method.
        SettingsError: A set's name is invalid.
    """
    for name in request.eval_datasets:
        if not SET_NAME.fullmatch(name) or name == TRAIN:
            raise SettingsError(
                f"eval_dataset has a set named {name!r}.",
                hint=f"Name it with letters, digits, '.', '_' and '-', and not {TRAIN!r}.",
            )
    files: dict[str, DataFile] = {}
    notes: dict[str, Notes] = {}
    for name, path in {TRAIN: request.dataset, **request.eval_datasets}.items():
        files[name], notes[name] = read(Path(path), request.columns, folder, emit, unknown_keys=request.unknown_keys)
        report_bad(files[name], emit)
    request = preferences.with_method(request, files)
    try:
        for number, data in enumerate(files.values()):
            require_good(data, preferences.method_of_set(request.recipe.method, data, number))
        preferences.require_labels(request.recipe.method, files)
    except DataError:
        emit("receipt", receipt=refused(files, Survey.of(notes, drop=False)))
        raise
    return request, files, notes
