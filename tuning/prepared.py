"""Prepared data on disk: flat arrays with offsets, one set of files a set of rows, mapped into memory when read.

train.tokens.npy          int32, all rows one after the other
train.mask.npy            uint8, 1 where a token carries loss
train.offsets.npy         int64, rows + 1: row i is tokens[offsets[i]:offsets[i + 1]]
eval.<set>.*.npy          the same for each held-out set
eval.<set>.rows.jsonl     for each held-out row: prompt_tokens, prompt, reference, line
prepared.json             the PrepareResult, and the settings that led to it
receipt.json, tokenizer/  the tokenizer carries the chat template in force
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..settings.errors import NotFoundError
from .masks import Encoded
from .protocol import PrepareResult

TRAIN = "train"


@dataclass(frozen=True, slots=True)
class PreparedSet:
    """One set of tokenized rows.

    Attributes:
        name: ``train``, or the name of a held-out set.
        tokens: int32, flat.
        mask: uint8, flat, 1 where a token carries loss.
        offsets: int64, one more than there are rows.
    """

    name: str
    tokens: NDArray[np.int32]
    mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def join(cls, name: str, rows: Sequence[Encoded]) -> Self:
        """Rows one after the other; at least one."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row.tokens) for row in rows], out=offsets[1:])
        return cls(name, np.concatenate([r.tokens for r in rows]), np.concatenate([r.mask for r in rows]), offsets)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """A set of a prepared folder, mapped into memory and read-only.

        Raises:
            NotFoundError: The folder holds no such set.
        """
        parts: list[Any] = []
        for part in ("tokens", "mask", "offsets"):
            path = folder / f"{_stem(name)}.{part}.npy"
            if not path.is_file():
                raise NotFoundError(f"the prepared folder {folder} holds no set {name!r} ({path.name} is missing).")
            parts.append(np.load(path, mmap_mode="r", allow_pickle=False))
        return cls(name, *parts)

    def save(self, folder: Path) -> None:
        """Write the three files of this set."""
        for part, array in (("tokens", self.tokens), ("mask", self.mask), ("offsets", self.offsets)):
            np.save(folder / f"{_stem(self.name)}.{part}.npy", array, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Tokens and mask of a row."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.tokens[start:end], self.mask[start:end]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The order in which an epoch visits the rows: a permutation, a function of seed and epoch alone."""
        return permutation(len(self), seed, epoch)


def permutation(rows: int, *seed: int) -> NDArray[np.int64]:
    """A permutation that stays the same in every numpy version.

    numpy promises that for a bit generator's raw numbers, not for ``Generator.permutation`` (NEP 19).
    """
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(rows)
    return np.argsort(raw, kind="stable").astype(np.int64)


def load_result(folder: Path) -> PrepareResult:
    """What ``prepare`` found out about a prepared folder."""
    facts = _facts(folder)
    return PrepareResult.model_validate({name: facts[name] for name in PrepareResult.model_fields if name in facts})


def load_settings(folder: Path) -> dict[str, Any]:
    """The settings that led to a prepared folder: recipe, seed, eval_fraction, completion_only, stop_tokens."""
    return _facts(folder)["settings"]


def eval_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a held-out set in their order: prompt_tokens, prompt, reference, line."""
    with (folder / f"{_stem(name)}.rows.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def save_eval_rows(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows that ``eval_rows`` reads."""
    with (folder / f"{_stem(name)}.rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def save_result(folder: Path, result: PrepareResult, settings: dict[str, Any]) -> None:
    """Write ``prepared.json`` and ``receipt.json``."""
    facts = {**result.model_dump(mode="json"), "settings": settings}
    (folder / "prepared.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
    receipt = json.dumps(result.receipt, ensure_ascii=False, indent=1)
    (folder / "receipt.json").write_text(receipt, encoding="utf-8")


def _stem(name: str) -> str:
    return TRAIN if name == TRAIN else f"eval.{name}"


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / "prepared.json"
    if not path.is_file():
        raise NotFoundError(f"{folder} holds no prepared data (prepared.json is missing).")
    return json.loads(path.read_text(encoding="utf-8"))
