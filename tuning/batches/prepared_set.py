"""Reads and writes prepared data on disk: flat arrays with offsets, a set of files for each set of rows, memory-mapped.

train.tokens.npy          int32, all rows one after the other
train.mask.npy            uint8, 1 where a token carries loss
train.offsets.npy         int64, rows + 1: row i is tokens[offsets[i]:offsets[i + 1]]
train.labels.npy          uint8, for preference training alone: 1 where a row's answer is wanted; the rows of pairs
                          alternate, the chosen answer first
eval.<set>.*.npy          the same for each held-out set
eval.<set>.rows.jsonl     for each held-out row: prompt_tokens, prompt, reference, line, row_hash, answer_tokens, tools
prepared.json             the PrepareResult, and the settings that led to it
receipt.json, tokenizer/  the tokenizer carries the chat template in force
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from ...errors import NotFoundError
from ..protocol import PrepareResult

TRAIN = "train"
_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class PreparedSet:
    """Holds one set of tokenized rows.

    Attributes:
        name: ``train``, or the name of a held-out set.
        tokens: int32, flat.
        mask: uint8, flat, 1 where a token carries loss.
        offsets: int64, one more than there are rows.
        labels: uint8, 1 where the row's answer is wanted; None where the rows are no preferences.
    """

    name: str
    tokens: NDArray[np.int32]
    mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    labels: NDArray[np.uint8] | None = None

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Map a set of a prepared folder into memory, read-only.

        Raises:
            NotFoundError: The folder holds no such set.
        """
        parts: list[Any] = []
        for part in ("tokens", "mask", "offsets"):
            path = folder / f"{_stem(name)}.{part}.npy"
            if not path.is_file():
                raise NotFoundError(f"the prepared folder {folder} holds no set {name!r} ({path.name} is missing).")
            parts.append(np.load(path, mmap_mode="r", allow_pickle=False))
        labels = folder / f"{_stem(name)}.labels.npy"
        return cls(
            name, *parts, labels=np.load(labels, mmap_mode="r", allow_pickle=False) if labels.is_file() else None
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return tokens and mask of a row."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.tokens[start:end], self.mask[start:end]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each row."""
        return np.diff(self.offsets)


class SetWriter:
    """Writes a set piece by piece, so that it may be larger than memory; a context manager.

    Args:
        folder: The folder of the prepared data.
        name: The name of the set. Held-out sets have a file of their prompts beside the arrays.

    Attributes:
        rows: Rows so far.
        tokens: Their tokens.
        trained_tokens: Of these, the tokens that carry loss.
        largest_token: The largest id among them.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._tokens, self._mask, self._offsets = (
            _ArrayWriter(folder / f"{_stem(name)}.{part}.npy", dtype)
            for part, dtype in (("tokens", np.int32), ("mask", np.uint8), ("offsets", np.int64))
        )
        self._prompts = None if name == TRAIN else (folder / f"{_stem(name)}.rows.jsonl").open("w", encoding="utf-8")
        self._offsets.write(np.zeros(1, dtype=np.int64))
        self.rows = self.tokens = self.trained_tokens = self.largest_token = 0
        self._labels_path, self._labels = folder / f"{_stem(name)}.labels.npy", bytearray()

    def write(
        self, tokens: NDArray[np.int32], mask: NDArray[np.uint8], lengths: NDArray[np.int64], labels: bytes = b""
    ) -> None:
        """Append rows, one after the other, with the length of each and, of preferences, the label of each."""
        self._labels += labels
        self._tokens.write(tokens)
        self._mask.write(mask)
        self._offsets.write(self.tokens + np.cumsum(lengths))
        self.rows += len(lengths)
        self.tokens += len(tokens)
        self.trained_tokens += int(mask.sum(dtype=np.int64))
        self.largest_token = max(self.largest_token, int(tokens.max(initial=0)))

    def write_prompts(self, prompts: Sequence[str]) -> None:
        """Append lines of rows that ``eval_rows`` yields, as ``prompt_line`` writes them; each held-out row has one."""
        if self._prompts is None:
            if prompts:
                raise ValueError("training rows have no prompts")
            return
        self._prompts.writelines(prompts)

    def close(self) -> None:
        """Finish the files."""
        for part in (self._tokens, self._mask, self._offsets):
            part.close()
        if self._prompts is not None:
            self._prompts.close()
        if self._labels:
            np.save(self._labels_path, np.frombuffer(self._labels, dtype=np.uint8))

    def discard(self) -> None:
        """Remove the files."""
        for part in (self._tokens, self._mask, self._offsets):
            part.path.unlink()
        if self._prompts is not None:
            Path(self._prompts.name).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ArrayWriter:
    """Writes a one-dimensional ``.npy`` file that grows; the header is written again once the length is known."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.path, self._dtype, self._count = path, np.dtype(dtype), 0
        self._file = path.open("wb")
        self._write_header()

    def write(self, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self._count += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # numpy leaves room for the first axis to grow, so the header is as long with any count (numpy.lib.format)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, header)


class HeldOutRow(TypedDict):
    """Holds a held-out row: the prompt, the reference that a good answer is compared with, and its line in the dataset.

    ``answer_tokens`` are the tokens of the reference that carry loss, uncut, with their end token; running text has
    none. ``row_hash`` covers the whole prompt and answer, ``tools`` tells if the row has tools. Data that an older
    version prepared has none of these three. ``wanted`` is the label of an answer for preference training.
    """

    prompt_tokens: list[int]
    prompt: str
    reference: str
    line: int
    row_hash: NotRequired[str]
    answer_tokens: NotRequired[list[int]]
    tools: NotRequired[bool]
    wanted: NotRequired[bool]


def prompt_line(row: HeldOutRow) -> str:
    """Return a held-out row's line in its file."""
    return _encode(row) + "\n"


def permutation(rows: int, *seed: int) -> NDArray[np.int64]:
    """Return a permutation that stays the same in every numpy version.

    numpy promises stability for a bit generator's raw numbers, not for ``Generator.permutation`` (NEP 19).
    """
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(rows)
    return np.argsort(raw, kind="stable").astype(np.int64)


def load_result(folder: Path) -> PrepareResult:
    """Read the result of ``prepare`` from a prepared folder."""
    facts = _facts(folder)
    return PrepareResult.model_validate({name: facts[name] for name in PrepareResult.model_fields if name in facts})


def load_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of a prepared folder: recipe, seed, eval_fraction, completion_only, stop_tokens."""
    return _facts(folder)["settings"]


def eval_rows(folder: Path, name: str) -> Iterator[HeldOutRow]:
    """Yield the rows of a held-out set in their order."""
    with (folder / f"{_stem(name)}.rows.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


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
