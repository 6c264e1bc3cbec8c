"""``prepare``: from a dataset file to tokens on disk, with a receipt of everything that was found on the way.

The data is read and checked before the base is even looked for, so that a bad line costs seconds. No torch here: the
tokenizer's own library does the work, and the results are flat numpy arrays (prepared.py). Everything is written
aside and renamed when its manifest stands, so a prepared folder is whole or not there.
"""

import errno
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ..settings.errors import DiskFullError, SettingsError
from ..storage.manifest import commit
from . import base as bases
from .estimate import memory_bytes
from .formats import DataFile, Row, read, require_good
from .masks import Encoded
from .prepared import (
    TRAIN,
    PreparedSet,
    eval_rows,
    load_result,
    load_settings,
    permutation,
    save_eval_rows,
    save_result,
)
from .protocol import Base, Emit, PrepareRequest, PrepareResult
from .receipt import file_facts, sample_pieces, set_facts, set_warnings
from .templates import ChatTemplate, choose
from .tokens import NoUsableRowsError, Tokenization, TokenizedSet, report_bad, row_key
from .weights import read_json

__all__ = ["PreparedSet", "eval_rows", "load_result", "load_settings", "prepare"]

SPLIT = "eval"
DEFAULT_MAX_LENGTH = 2048
FEW_ROWS = 10
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def prepare(request: PrepareRequest, emit: Emit) -> PrepareResult:
    """Read, check, split and tokenize a dataset; resolve and fetch the base.

    Args:
        request: What to prepare; its ``out_dir`` is replaced when all went well, and untouched otherwise.
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
    files = _read_all(request, emit)
    sets = split(files, request.eval_fraction, request.seed)
    cache = Path(request.cache_dir)
    base = bases.resolve(request.base_model, request.revision, cache, request.hub, emit)
    folder = bases.folder(base, cache, request.hub, emit)
    template = choose(bases.load_tokenizer(folder), request.recipe.template)
    max_length = _max_length(request, base)
    tokenized: dict[str, TokenizedSet] = {}
    for name, rows in sets.items():
        run = Tokenization(template, name, max_length=max_length, completion_only=request.recipe.completion_only)
        try:
            tokenized[name] = run.tokenize(rows, files.get(name, files[TRAIN]), emit)
        except NoUsableRowsError as error:
            if name in files:
                raise
            template.warnings.append(error.message)
    warnings = _warnings(template, sets, tokenized, max_length, request)
    for warning in warnings:
        emit("note", level="warning", message=warning)
    train = tokenized[TRAIN]
    result = PrepareResult(
        base=base,
        dataset_sha256=files[TRAIN].sha256,
        train_rows=train.facts.rows,
        eval_rows={name: done.facts.rows for name, done in tokenized.items() if name != TRAIN},
        train_tokens=train.facts.tokens,
        trained_tokens=train.facts.trained_tokens,
        max_length=max_length,
        template=template.name,
        memory_bytes=memory_bytes(
            request.recipe,
            parameters=base.parameters,
            model_config=read_json(folder / "config.json"),
            length=int(train.rows.lengths.max()),
        ),
        receipt=_receipt(
            files,
            template,
            tokenized,
            max_length=max_length,
            completion_only=request.recipe.completion_only,
            warnings=warnings,
        ),
        warnings=warnings,
    )
    _write(request, result, template, tokenized)
    return result


def _read_all(request: PrepareRequest, emit: Emit) -> dict[str, DataFile]:
    for name in request.eval_datasets:
        if not SET_NAME.fullmatch(name) or name == TRAIN:
            raise SettingsError(
                f"eval_dataset has a set named {name!r}.",
                hint=f"Name it with letters, digits, '.', '_' and '-', and not {TRAIN!r}.",
            )
    files: dict[str, DataFile] = {}
    for name, path in {TRAIN: request.dataset, **request.eval_datasets}.items():
        emit("phase", phase=f"read {Path(path).name}", done=None, total=None)
        files[name] = read(Path(path))
        report_bad(files[name], emit)
    for data in files.values():
        require_good(data)
    return files


def split(files: dict[str, DataFile], eval_fraction: float, seed: int) -> dict[str, list[Row]]:
    """The rows by set: those of the held-out files, or a share of the training rows that the seed chooses.

    Equal rows go to the same side, so that the split itself never puts a training row among the held-out ones. With
    fewer than two different rows nothing is held out.
    """
    rows = files[TRAIN].rows
    if len(files) > 1 or not eval_fraction:
        return {name: data.rows for name, data in files.items()}
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row_key(row), []).append(number)
    equal_rows = list(groups.values())
    order = [equal_rows[int(number)] for number in permutation(len(equal_rows), seed)[:-1]]
    wanted = max(1, round(eval_fraction * len(rows)))
    held: set[int] = set()
    for members in order:
        if len(held) + len(members) <= wanted:
            held.update(members)
    if not held:
        held.update(min(order, key=len, default=list[int]()))
    if not held:
        return {TRAIN: rows}
    kept = [row for number, row in enumerate(rows) if number not in held]
    return {TRAIN: kept, SPLIT: [rows[number] for number in sorted(held)]}


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


def _warnings(
    template: ChatTemplate,
    sets: dict[str, list[Row]],
    tokenized: dict[str, TokenizedSet],
    max_length: int,
    request: PrepareRequest,
) -> list[str]:
    warnings = list(template.warnings)
    if (few := tokenized[TRAIN].facts.rows) < FEW_ROWS:
        warnings.append(
            f"only {few} training {'row' if few == 1 else 'rows'}; a style wants 100 or more, a task 1,000 or more"
        )
    if len(tokenized) == 1:
        why = "no two different rows to split" if request.eval_fraction and len(sets) == 1 else "no usable rows for it"
        why = why if request.eval_fraction else "eval_fraction is 0"
        warnings.append(f"nothing is held out ({why}), so the adapter can't be measured against its base")
    train_keys = {row_key(row) for row in sets[TRAIN]}
    for name, done in tokenized.items():
        warnings += set_warnings(name, done.facts, max_length)
        overlap = 0 if name == TRAIN else sum(row_key(row) in train_keys for row in sets[name])
        if overlap:
            warnings.append(f"{name} shares {overlap} of its rows with the training rows, so its metrics look too good")
    return warnings


def _receipt(
    files: dict[str, DataFile],
    template: ChatTemplate,
    tokenized: dict[str, TokenizedSet],
    *,
    max_length: int,
    completion_only: bool,
    warnings: list[str],
) -> dict[str, Any]:
    tokenizer = cast("Any", template.tokenizer)
    sample, mask = tokenized[TRAIN].rows[0]
    return {
        "version": 1,
        "files": [file_facts(name, data) for name, data in files.items()],
        "template": template.name,
        "max_length": max_length,
        "completion_only": completion_only,
        "sets": {name: set_facts(done.facts) for name, done in tokenized.items()},
        "warnings": warnings,
        "sample": sample_pieces(Encoded(sample, mask), tokenizer.decode),
    }


def _write(
    request: PrepareRequest, result: PrepareResult, template: ChatTemplate, tokenized: dict[str, TokenizedSet]
) -> None:
    out = Path(request.out_dir)
    settings = {
        **request.model_dump(mode="json", include={"recipe", "seed", "eval_fraction"}),
        "completion_only": request.recipe.completion_only,
        "stop_tokens": template.stop_tokens(),
        "system_role": template.system_role,
    }
    with _staged(out) as staged:
        for name, done in tokenized.items():
            done.rows.save(staged)
            if name != TRAIN:
                save_eval_rows(staged, name, done.prompts)
        cast("Any", template.tokenizer).save_pretrained(str(staged / "tokenizer"))
        save_result(staged, result, settings)
        commit(staged, out, kind="prepared", job=request.job, attempt=request.attempt)


@contextmanager
def _staged(out: Path) -> Generator[Path]:
    """A folder beside ``out`` to write into; whatever happens, it is gone afterwards."""
    staged = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        yield staged
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no space left for the prepared data in {out.parent}.",
                hint="Free some space there, or move CELORA_HOME to a larger disk.",
            ) from error
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
