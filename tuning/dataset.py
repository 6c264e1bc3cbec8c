"""``prepare``: from a dataset file to tokens on disk, with a receipt of everything that was found on the way.

The data is read and checked before the base is even looked for, so that a bad line costs seconds. No torch here: the
tokenizer's own library does the work, and the results are flat numpy arrays (prepared.py). Everything is written
aside and renamed when its manifest stands, so a prepared folder is whole or not there.
"""

import errno
import re
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..settings.errors import DataError, DiskFullError, LimitError, SettingsError
from ..storage.manifest import commit
from . import base as bases
from . import estimates, forks, limits, reading, reuse
from .estimate import memory_bytes
from .findings import Notes
from .formats import BadRowsError, DataFile, PreferenceRowsError, Row, require_good
from .masks import Encoded
from .prepared import (
    TRAIN,
    PreparedSet,
    eval_rows,
    load_result,
    load_settings,
    save_result,
)
from .protocol import Base, Emit, PrepareRequest, PrepareResult
from .receipt import (
    VERSION,
    SetFacts,
    Survey,
    Warned,
    file_facts,
    refused,
    row_warnings,
    sample_pieces,
    set_facts,
    set_warnings,
)
from .split import split
from .spool import choose_rows
from .templates import ChatTemplate, choose
from .tokens import NoUsableRowsError, Tokenization, TokenizedSet, report_bad
from .weights import read_json

__all__ = ["PreparedSet", "eval_rows", "load_result", "load_settings", "prepare"]

ASKED = {"recipe", "seed", "eval_fraction"}
"""Fields of a request that stand in ``prepared.json``."""

SPLIT = "eval"
DEFAULT_MAX_LENGTH = 2048
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def prepare(request: PrepareRequest, emit: Emit) -> PrepareResult:
    """Read, check, split and tokenize a dataset; resolve and fetch the base.

    Args:
        request: What to prepare; its ``out_dir`` is replaced when all went well, and untouched otherwise. With the
            op ``check`` nothing is written at all.
        emit: Told of phases with their progress, and of every bad line and warning as notes.

    Returns:
        What was found out; the same stands in ``prepared.json``.

    Raises:
        BadRowsError: Lines that cannot be used, each named.
        DataError: A file is missing or unreadable, or no row of it can be trained on.
        SettingsError: The maximum length, template or a set's name can't be.
        BaseModelError: The base can't be had or used.
        DiskFullError: No room for the prepared files.
    """
    store = reuse.Store(request)
    again = _reused(request, store, emit) if store.seen and request.op == "prepare" else None
    if again:
        return again
    with _staged(Path(request.out_dir)) as staged:
        files, notes = _read_all(request, staged, emit)
        emit("phase", phase="look for repeats", done=None, total=None)
        survey = Survey.of(
            notes, drop=request.duplicates == "drop", near=request.near_duplicates, rows=files[TRAIN].rows
        )
        base, folder = _base(request, emit)
        emit("phase", phase=f"try the chat template of {base.name}", done=None, total=None)
        template = choose(bases.load_tokenizer(folder), request.recipe.template)
        work = _Work(request, base, folder, files=files, survey=survey, template=template)
        result = work.result(work.tokenize(staged, emit), emit)
        if request.op == "check":
            return result
        _write(staged, request, result, template)
    if all(data.sha256 == store.hashes.get(name) for name, data in files.items()):
        store.entry(base, folder, work.max_length).keep(Path(request.out_dir), emit)
    return result


@dataclass(slots=True)
class _Work:
    """What one run has found so far: the files and their rows, and the base with its template."""

    request: PrepareRequest
    base: Base
    folder: Path
    files: dict[str, DataFile] = field(kw_only=True)
    survey: Survey = field(kw_only=True)
    template: ChatTemplate = field(kw_only=True)
    max_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.max_length = _max_length(self.request, self.base)

    def tokenize(self, staged: Path, emit: Emit) -> dict[str, TokenizedSet]:
        """Every set as tokens in the folder; a split of which no row is usable is left out."""
        done: dict[str, TokenizedSet] = {}
        length, completion_only = self.max_length, self.request.recipe.completion_only
        for name, members in _sets(self.request, self.files, self.survey).items():
            run = Tokenization(
                self.template,
                name,
                folder=staged,
                max_length=length,
                completion_only=completion_only,
                processes=forks.processes(self.request.threads),
            )
            try:
                done[name] = run.tokenize(members, self.files.get(name, self.files[TRAIN]), emit)
            except BadRowsError:
                emit("receipt", receipt=refused(self.files, self.survey))
                raise
            except NoUsableRowsError as error:
                if name in self.files:
                    emit("receipt", receipt=refused(self.files, self.survey))
                    raise
                self.template.warnings.append(error.message)
        return done

    def result(self, sets: dict[str, TokenizedSet], emit: Emit) -> PrepareResult:
        """What there is to say about it all; warnings are told too."""
        train, request = sets[TRAIN], self.request
        rows = {name: done.rows for name, done in sets.items()}
        estimate = estimates.estimate(_work(request, self.base, self.folder, self.max_length, rows), request.devices)
        warned = [*row_warnings(self.survey), *self._warnings(sets)]
        for warning in warned:
            emit("note", level="warning", message=warning.message)
        return PrepareResult(
            base=self.base,
            dataset_sha256=self.files[TRAIN].sha256,
            train_rows=train.facts.rows,
            eval_rows={name: done.facts.rows for name, done in sets.items() if name != TRAIN},
            train_tokens=train.facts.tokens,
            trained_tokens=train.facts.trained_tokens,
            max_length=self.max_length,
            template=self.template.name,
            memory_bytes=memory_bytes(
                request.recipe,
                parameters=self.base.parameters,
                model_config=read_json(self.folder / "config.json"),
                length=int(train.rows.lengths.max()),
            ),
            receipt=self._receipt(sets, warned, estimate),
            warnings=[warning.message for warning in warned],
        )

    def _warnings(self, sets: dict[str, TokenizedSet]) -> Iterator[Warned]:
        for message in self.template.warnings:
            yield Warned("template", message)
        if len(sets) == 1:
            distinct = len(np.unique(np.array(self.survey.notes[TRAIN].normal)))
            why = "no two different rows to split" if distinct == 1 else "no usable rows for it"
            why = why if self.request.eval_fraction else "eval_fraction is 0"
            message = f"nothing is held out ({why}), so the adapter can't be measured against its base"
            yield Warned("nothing_held_out", message)
        for data in self.files.values():
            for message in data.warnings:
                yield Warned("data", message)
        for name, done in sets.items():
            yield from set_warnings(name, done.facts, self.max_length)

    def _receipt(
        self, sets: dict[str, TokenizedSet], warned: Sequence[Warned], estimate: dict[str, Any]
    ) -> dict[str, Any]:
        sample, mask = sets[TRAIN].rows[0]
        return {
            "version": VERSION,
            "ok": True,
            "base": self.base.model_dump(mode="json"),
            "files": [file_facts(name, data) for name, data in self.files.items()],
            "rows": self.survey.facts(self.files[TRAIN].format),
            "template": self.template.name,
            "max_length": self.max_length,
            "completion_only": self.request.recipe.completion_only,
            "reused": False,
            "sets": {name: set_facts(done.facts) for name, done in sets.items()},
            "warnings": [asdict(warning) for warning in warned],
            "estimate": estimate,
            "sample": sample_pieces(Encoded(sample, mask), cast("Any", self.template.tokenizer).decode),
        }


def _base(request: PrepareRequest, emit: Emit) -> tuple[Base, Path]:
    """The base and its folder. Fetching and converting it is no foreign data's doing, so no limit holds meanwhile."""
    cache = Path(request.cache_dir)
    with limits.lifted():
        base = bases.resolve(request.base_model, request.revision, cache, request.hub, emit)
        return base, bases.folder(base, cache, request.hub, emit)


def _reused(request: PrepareRequest, store: reuse.Store, emit: Emit) -> PrepareResult | None:
    """What an earlier run prepared from the same rows, base, template and settings; None where there is nothing.

    Names and estimates are fitted to this request, which may train in another way.
    """
    base, folder = _base(request, emit)
    out, max_length = Path(request.out_dir), _max_length(request, base)
    with _staged(out) as staged:
        if not store.entry(base, folder, max_length).take(staged, emit):
            return None
        before = load_result(staged)
        paths = {TRAIN: request.dataset, **request.eval_datasets}
        names = [TRAIN, *before.eval_rows]
        prepared = {name: PreparedSet.load(staged, name) for name in names}
        estimate = estimates.estimate(_work(request, base, folder, max_length, prepared), request.devices)
        named = [{**facts, "name": Path(paths[facts["set"]]).name} for facts in before.receipt["files"]]
        result = before.model_copy(
            update={
                "base": base,
                "memory_bytes": memory_bytes(
                    request.recipe,
                    parameters=base.parameters,
                    model_config=read_json(folder / "config.json"),
                    length=int(prepared[TRAIN].lengths.max()),
                ),
                "receipt": {
                    **before.receipt,
                    "files": named,
                    "reused": True,
                    "estimate": estimate,
                    "base": base.model_dump(mode="json"),
                },
            }
        )
        settings = load_settings(staged) | request.model_dump(mode="json", include=ASKED)
        save_result(staged, result, settings)
        commit(staged, out, kind="prepared", job=request.job, attempt=request.attempt)
    emit("note", level="info", message="the prepared data of an earlier run is reused: same rows, base and settings")
    for warning in result.warnings:
        emit("note", level="warning", message=warning)
    return result


def _work(
    request: PrepareRequest, base: Base, folder: Path, max_length: int, sets: dict[str, PreparedSet]
) -> estimates.Work:
    """What the job has to do, for the estimate."""
    train, held_out = sets[TRAIN], {name: rows for name, rows in sets.items() if name != TRAIN}
    return estimates.Work(
        recipe=request.recipe,
        parameters=base.parameters,
        model_config=read_json(folder / "config.json"),
        max_length=max_length,
        lengths=train.lengths,
        trained_tokens=int(train.mask.sum(dtype=np.int64)),
        held_out={name: rows.lengths for name, rows in held_out.items()},
        answers={
            name: np.add.reduceat(rows.mask, rows.offsets[:-1], dtype=np.int64) for name, rows in held_out.items()
        },
        seed=request.seed,
        eval_max_rows=request.eval_max_rows,
        eval_max_new_tokens=request.eval_max_new_tokens,
    )


def _read_all(request: PrepareRequest, folder: Path, emit: Emit) -> tuple[dict[str, DataFile], dict[str, Notes]]:
    for name in request.eval_datasets:
        if not SET_NAME.fullmatch(name) or name == TRAIN:
            raise SettingsError(
                f"eval_dataset has a set named {name!r}.",
                hint=f"Name it with letters, digits, '.', '_' and '-', and not {TRAIN!r}.",
            )
    files: dict[str, DataFile] = {}
    notes: dict[str, Notes] = {}
    for name, path in {TRAIN: request.dataset, **request.eval_datasets}.items():
        files[name], notes[name] = reading.read(
            Path(path), request.columns, folder, emit, processes=forks.processes(request.threads)
        )
        report_bad(files[name], emit)
    try:
        for data in files.values():
            require_good(data)
    except PreferenceRowsError:
        sets = _answers(request, files, folder, emit) if request.op == "check" else {}
        emit("receipt", receipt=refused(files, Survey.of(notes, drop=False), sets))
        raise
    except DataError:
        emit("receipt", receipt=refused(files, Survey.of(notes, drop=False)))
        raise
    return files, notes


def _answers(request: PrepareRequest, files: dict[str, DataFile], folder: Path, emit: Emit) -> dict[str, SetFacts]:
    """What tokenizing preference rows brings to light, each answer with its prompt as a row of its own.

    Only a check does that: nothing trains on such rows yet, so a job is refused before its base is even looked for.
    """
    base, at = _base(request, emit)
    template, found = choose(bases.load_tokenizer(at), request.recipe.template), dict[str, SetFacts]()
    for name, data in files.items():
        aside = folder / f"answers.{name}"
        aside.mkdir()
        run = Tokenization(
            template,
            TRAIN,
            folder=aside,
            max_length=_max_length(request, base),
            completion_only=True,
            processes=forks.processes(request.threads),
        )
        with suppress(BadRowsError, NoUsableRowsError):  # told in notes; there is nothing more to count
            found[name] = run.tokenize(data.pairs or data.rows, data, emit).facts
    return found


def _sets(request: PrepareRequest, files: dict[str, DataFile], survey: Survey) -> dict[str, Sequence[Row]]:
    """The rows by set, repeated training rows left out as far as asked; they stay on disk."""
    kept = survey.kept
    train = choose_rows(files[TRAIN].rows, kept)
    if len(files) > 1 or not request.eval_fraction:
        return {name: data.rows for name, data in files.items()} | {TRAIN: train}
    held = split(np.array(survey.notes[TRAIN].normal, dtype=np.int64)[kept], request.eval_fraction, request.seed)
    if not held.any():
        return {TRAIN: train}
    return {TRAIN: choose_rows(train, ~held), SPLIT: choose_rows(train, held)}


def _max_length(request: PrepareRequest, base: Base) -> int:
    asked = request.recipe.max_length
    if asked == "auto":
        return min(base.context_tokens, DEFAULT_MAX_LENGTH)
    if asked > base.context_tokens:
        raise SettingsError(
            f"max_length {asked} is more than the {base.context_tokens} tokens that {base.name} can read.",
            hint=f"Set max_length to {base.context_tokens} or less, or leave it away.",
        )
    return asked


def _write(staged: Path, request: PrepareRequest, result: PrepareResult, template: ChatTemplate) -> None:
    """Put what belongs to the sets beside them, and the whole in its place."""
    settings = {
        **request.model_dump(mode="json", include=ASKED),
        "completion_only": request.recipe.completion_only,
        "stop_tokens": template.stop_tokens(),
        "system_role": template.system_role,
    }
    cast("Any", template.tokenizer).save_pretrained(str(staged / "tokenizer"))
    save_result(staged, result, settings)
    commit(staged, Path(request.out_dir), kind="prepared", job=request.job, attempt=request.attempt)


@contextmanager
def _staged(out: Path) -> Generator[Path]:
    """A folder beside ``out`` to write into; whatever happens, it is gone afterwards."""
    staged = limits.partial(out)
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        with limits.staging(staged):
            yield staged
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise LimitError("a prepared file is larger than it may be.", hint=limits.hint_of("file_bytes")) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(out.parent).free / 2**20
            raise DiskFullError(
                f"no space left for the prepared data in {out.parent} ({free:.1f} MiB free).",
                hint="Free some space there, or move CELORA_HOME to a larger disk.",
            ) from error
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
