"""Runs ``prepare``: turns a dataset file into tokens on disk, with a receipt of all findings on the way.

The data is read and checked before the base is even looked for, so that a bad line costs seconds. No torch here: the
tokenizer's own library does the work, and the results are flat numpy arrays (batches/prepared_set.py). Everything is
written beside the target and renamed when its manifest is complete, so a prepared folder is whole or not there.
"""

import errno
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import LimitError
from ...storage.disk_space import disk_full, is_no_space
from ...storage.manifest import commit
from .. import resource_limits
from ..bases import base as bases
from ..bases.generation import save_tokenizer, stop_tokens
from ..bases.layout import Layout
from ..bases.local_files import panics_explained
from ..bases.model_files import read_json
from ..batches.prepared_set import TRAIN, PreparedSet, eval_rows, load_result, load_settings, save_result
from ..estimate import report
from ..estimate.memory import memory_bytes
from ..protocol import Base, Emit, PrepareRequest, PrepareResult
from ..recipe import PAIRED, Method
from ..rows.data_file import BadRowsError, DataFile
from ..run_checks import run_warnings
from ..semantics import SEMANTICS
from ..templates.chat_template import ChatTemplate
from ..templates.template_choice import choose
from . import preferences, prepared_cache, worker_pool
from .base_checks import check_targets, check_tokens, kept_warnings, length_in_force, unquantized_facts
from .read import read_all
from .receipt import (
    SUPERVISED,
    VERSION,
    Survey,
    Warned,
    file_facts,
    refused,
    row_warnings,
    set_facts,
    set_warnings,
)
from .samples import samples
from .split import split_sets
from .tokenize import NoUsableRowsError, Tokenization, TokenizedSet

__all__ = ["PreparedSet", "eval_rows", "load_result", "load_settings", "prepare"]

ASKED = {"recipe", "seed", "eval_fraction"}
"""Fields of a request that stand in ``prepared.json``."""

OF_THE_RUN = frozenset({"settings", "unquantized", "label_balance"})
"""Names of warnings about the training of a run, which are not reused."""


def prepare(request: PrepareRequest, emit: Emit) -> PrepareResult:
    """Read, check, split and tokenize a dataset; resolve and fetch the base.

    Args:
        request: The work; its ``out_dir`` is replaced on success, and untouched otherwise. With the
            op ``check`` nothing is written at all.
        emit: Receives the phases with their progress, and every bad line and warning as notes.

    Returns:
        The findings; the same are in ``prepared.json``.

    Raises:
        BadRowsError: Some lines cannot be used; each is named.
        DataError: A file is missing or unreadable, or no row of it can be trained on.
        SettingsError: The maximum length, template or a set's name is invalid.
        BaseModelError: The base cannot be fetched or used.
        DiskFullError: The disk has no room for the prepared files.
    """
    store = prepared_cache.Store(request)
    again = _reused(request, store, emit) if store.seen and request.op == "prepare" else None
    if again:
        return again
    with _staged(Path(request.out_dir)) as staged, panics_explained(Path(request.base_model)):
        asked = request.recipe.method
        request, files, notes = read_all(request, staged, emit)
        emit("phase", phase="look for repeats", done=None, total=None)
        first = preferences.first_answers(files[TRAIN])
        survey = Survey.of(notes, drop=request.duplicates == "drop", near=request.near_duplicates, rows=first)
        base, folder = _base(request, emit)
        emit("phase", phase=f"try the chat template of {base.name}", done=None, total=None)
        template = choose(bases.load_tokenizer(folder), request.recipe.template, stops=stop_tokens(folder))
        layout = _checked_layout(request, base, folder)
        work = _Work(request, base, folder, files=files, survey=survey, template=template, layout=layout, asked=asked)
        result = work.result(work.tokenize(staged, emit), emit)
        if request.op == "check":
            return result
        _write(staged, request, result, template)
    if all(data.sha256 == store.hashes.get(name) for name, data in files.items()):
        store.entry(base, folder, work.max_length).keep(Path(request.out_dir), emit)
    return result


@dataclass(slots=True)
class _Work:
    """Holds the findings of one run so far: the files and their rows, and the base with its template."""

    request: PrepareRequest
    base: Base
    folder: Path
    files: dict[str, DataFile] = field(kw_only=True)
    survey: Survey = field(kw_only=True)
    template: ChatTemplate = field(kw_only=True)
    layout: Layout = field(kw_only=True)
    asked: Method = field(kw_only=True)
    max_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.max_length = length_in_force(self.request, self.base)

    def tokenize(self, staged: Path, emit: Emit) -> dict[str, TokenizedSet]:
        """Tokenize every set into the folder; a split without a usable row is left out."""
        done: dict[str, TokenizedSet] = {}
        length, completion_only = self.max_length, self.request.recipe.completion_only
        for name, members in split_sets(self.request, self.files, self.survey).items():
            source = self.files.get(name, self.files[TRAIN])
            run = Tokenization(
                self.template,
                name,
                folder=staged,
                max_length=length,
                completion_only=completion_only,
                turns=self.request.recipe.turns,
                too_long=self.request.too_long,
                processes=worker_pool.processes(self.request.threads),
                group=preferences.group(self.request.recipe.method, source),
            )
            try:
                done[name] = run.tokenize(members, source, emit)
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
        """Assemble the result of the run; warnings are emitted too."""
        train, request = sets[TRAIN], self.request
        largest = max(done.largest_token for done in sets.values())
        check_tokens(largest, self.template.tokenizer, self.layout, self.base)
        rows = {name: done.rows for name, done in sets.items()}
        trained = train.facts.trained_tokens
        work = _work(request, self.base, self.folder, self.max_length, rows, trained_tokens=trained)
        estimate = report.estimate(work, request.devices)
        of_run = _run_warnings(request, estimate, rows, self.layout)
        warned = [*row_warnings(self.survey), *self._warnings(sets), *of_run]
        compared = preferences.facts(request.recipe.method, rows)
        if compared:
            warned += preferences.warnings(request, self.asked, compared)
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
                length=int(_lengths(request, train.rows).max()),
            ),
            receipt=self._receipt(sets, warned, estimate) | _compared(compared),
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
        train = sets[TRAIN]
        shown = samples(train.rows, train.firsts, cast("Any", self.template.tokenizer).decode)
        method = self.request.recipe.method
        return {
            "version": VERSION,
            "semantics": SEMANTICS,
            "ok": True,
            "method": SUPERVISED if method == "sft" else method,
            "base": self.base.model_dump(mode="json"),
            "files": [file_facts(name, data) for name, data in self.files.items()],
            "rows": self.survey.facts(self.files[TRAIN].format),
            "template": self.template.name,
            **_training_form(self.template),
            "max_length": self.max_length,
            "completion_only": self.request.recipe.completion_only,
            "reused": False,
            "sets": {name: set_facts(done.facts) for name, done in sets.items()},
            "warnings": [asdict(warning) for warning in warned],
            "estimate": estimate,
            **_unquantized(self.request, self.layout),
            "sample": shown[0]["parts"],
            "samples": shown,
        }


def _base(request: PrepareRequest, emit: Emit) -> tuple[Base, Path]:
    """Return the base and its folder. Its files are foreign data; no limit applies to their fetch and conversion."""
    cache = Path(request.cache_dir)
    base = bases.resolve(request.base_model, request.revision, cache, request.hub, emit)
    return base, bases.folder(base, cache, request.hub, emit)


def _reused(request: PrepareRequest, store: prepared_cache.Store, emit: Emit) -> PrepareResult | None:
    """Return the result of an earlier run with the same rows, base, template and settings; None where there is none.

    Names and estimates are fitted to this request, which may train differently.
    """
    base, folder = _base(request, emit)
    out, max_length = Path(request.out_dir), length_in_force(request, base)
    layout = _checked_layout(request, base, folder)
    with _staged(out) as staged:
        if not store.entry(base, folder, max_length).take(staged, emit):
            return None
        before = load_result(staged)
        paths = {TRAIN: request.dataset, **request.eval_datasets}
        names = [TRAIN, *before.eval_rows]
        prepared = {name: PreparedSet.load(staged, name) for name in names}
        work = _work(request, base, folder, max_length, prepared, trained_tokens=before.trained_tokens)
        estimate = report.estimate(work, request.devices)
        of_rows = [Warned(**each) for each in before.receipt["warnings"] if each["name"] not in OF_THE_RUN]
        warned = [*of_rows, *_run_warnings(request, estimate, prepared, layout)]
        kept = {name: value for name, value in before.receipt.items() if name != "unquantized"}
        named = [{**facts, "name": Path(paths[facts["set"]]).name} for facts in before.receipt["files"]]
        result = before.model_copy(
            update={
                "base": base,
                "memory_bytes": memory_bytes(
                    request.recipe,
                    parameters=base.parameters,
                    model_config=read_json(folder / "config.json"),
                    length=int(_lengths(request, prepared[TRAIN]).max()),
                ),
                "receipt": {
                    **kept,
                    **_unquantized(request, layout),
                    "files": named,
                    "warnings": [asdict(warning) for warning in warned],
                    "reused": True,
                    "estimate": estimate,
                    "base": base.model_dump(mode="json"),
                },
                "warnings": [warning.message for warning in warned],
            }
        )
        settings = load_settings(staged) | request.model_dump(mode="json", include=ASKED)
        save_result(staged, result, settings)
        commit(staged, out, kind="prepared", job=request.job, attempt=request.attempt)
    emit("note", level="info", message="the prepared data of an earlier run is reused: same rows, base and settings")
    for warning in result.warnings:
        emit("note", level="warning", message=warning)
    return result


def _checked_layout(request: PrepareRequest, base: Base, folder: Path) -> Layout:
    """Return the layout of the base's weights from their headers, after its target modules were checked."""
    with resource_limits.lifted():
        layout = Layout.of(folder)
        code = request.hub.allows_code(base.name)
        targets = check_targets(request.recipe, base, folder, layout, code=code)
    return replace(layout, adapts_experts=bool(targets.experts))


def _compared(facts: dict[str, Any]) -> dict[str, Any]:
    return {"preferences": facts} if facts else {}


def _lengths(request: PrepareRequest, rows: PreparedSet) -> NDArray[np.int64]:
    """Return the tokens of each training example; a pair's are padded to its longer answer."""
    if request.recipe.method not in PAIRED:
        return rows.lengths
    return 2 * np.maximum(rows.lengths[::2], rows.lengths[1::2])


def _asked_rows(rows: PreparedSet) -> NDArray[np.bool_]:
    """Return for each held-out row True if its prompt is answered: of preferences, only those of wanted answers."""
    return np.ones(len(rows), dtype=np.bool_) if rows.labels is None else np.asarray(rows.labels) != 0


def _unquantized(request: PrepareRequest, layout: Layout) -> dict[str, Any]:
    """Return the receipt's entry of weights that stay unquantized; empty where all are quantized."""
    facts = unquantized_facts(request.recipe, layout)
    return {"unquantized": facts} if facts else {}


def _training_form(template: ChatTemplate) -> dict[str, Any]:
    """Return the receipt's entry of the training form of the template; empty where rows are trained as in use."""
    form = template.training
    return {"training_form": {"name": form.name, "library": form.library}} if form else {}


def _run_warnings(
    request: PrepareRequest, estimate: dict[str, Any], sets: Mapping[str, PreparedSet], layout: Layout
) -> Iterator[Warned]:
    """Yield warnings about the run of this request; another request for the same rows may have others."""
    epoch = estimate["epoch"]
    for message in run_warnings(
        request.recipe,
        planned_steps=epoch["planned_steps"],
        sequences=epoch["sequences"],
        effective_batch=epoch["effective_batch"],
        held_out=len(sets) > 1,
    ):
        yield Warned("settings", message)
    for message in preferences.balance_warnings(request.recipe, sets[TRAIN]):
        yield Warned("label_balance", message)
    for message in kept_warnings(request.recipe, layout):
        yield Warned("unquantized", message)


def _work(
    request: PrepareRequest,
    base: Base,
    folder: Path,
    max_length: int,
    sets: dict[str, PreparedSet],
    *,
    trained_tokens: int,
) -> report.Work:
    """Describe the work of the job, for the estimate.

    The tokens of the training set stay on disk: what is read of a mapped file counts as this process's memory.
    """
    train, held_out = sets[TRAIN], {name: rows for name, rows in sets.items() if name != TRAIN}
    return report.Work(
        recipe=request.recipe,
        parameters=base.parameters,
        model_config=read_json(folder / "config.json"),
        max_length=max_length,
        lengths=_lengths(request, train),
        trained_tokens=trained_tokens,
        held_out={name: rows.lengths[_asked_rows(rows)] for name, rows in held_out.items()},
        answers={
            name: np.add.reduceat(rows.mask, rows.offsets[:-1], dtype=np.int64)[_asked_rows(rows)]
            for name, rows in held_out.items()
        },
        seed=request.seed,
        eval_max_rows=request.eval_max_rows,
        eval_max_new_tokens=request.eval_max_new_tokens,
    )


def _write(staged: Path, request: PrepareRequest, result: PrepareResult, template: ChatTemplate) -> None:
    """Write the files that belong to the sets beside them, and move the whole folder to its place."""
    settings = {
        **request.model_dump(mode="json", include=ASKED),
        "completion_only": request.recipe.completion_only,
        "stop_tokens": template.stop_tokens(),
        "system_role": template.system_role,
    }
    save_tokenizer(template.tokenizer, staged / "tokenizer", end_token=template.end_token, stops=template.stop_tokens())
    save_result(staged, result, settings)
    commit(staged, Path(request.out_dir), kind="prepared", job=request.job, attempt=request.attempt)


@contextmanager
def _staged(out: Path) -> Generator[Path]:
    """Create a folder beside ``out`` to write into, and remove it afterwards in any case."""
    staged = resource_limits.partial(out)
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        with resource_limits.staging(staged):
            yield staged
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise LimitError(
                "a prepared file is larger than it may be.", hint=resource_limits.hint_of("file_bytes")
            ) from error
        if is_no_space(error):
            raise disk_full(out.parent, what="the prepared data", error=error) from error
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
