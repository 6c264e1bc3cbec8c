"""Malformed datasets: rows and files that cost too much, then mutations of good files of every container and format."""

import gzip
import io
import json
import random
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from hostile.attack import Attempt, kind
from hostile.mutations import mutated

from celora.errors import DataError
from celora.tuning.files.faults import BadLine
from celora.tuning.prepare.findings import Notes
from celora.tuning.rows.data_file import require_good
from celora.tuning.rows.row_reader import rows

MOST_CPU_S = 10.0
PLACE = r"(line \d+[,:]|line \d+ |byte \d+|row \d+)"
WHOLE = r"holds no rows|does not train on those"
"""Refusals of a file as a whole, which has no place to name."""

CALL = {"id": "c1", "type": "function", "function": {"name": "price", "arguments": json.dumps({"of": "tea"})}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What does “tea” cost? 😀"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "2.50"},
    {"role": "assistant", "content": "Two and a half.", "weight": 1},
]
TALK = [{"from": "human", "value": 'Hello \\ " there\n'}, {"from": "gpt", "value": "Good day."}]
ROWS = {
    "alpaca": {"instruction": "Add.", "input": "2 2", "output": "4", "system": "", "history": [["a", "b"]]},
    "chat": {"messages": CHAT, "tools": [{"type": "function", "function": {"name": "price", "parameters": {}}}]},
    "completion": {"prompt": "What is it?", "completion": "A test, été."},
    "question": {"question": "How many?", "answer": "3 #### 3"},
    "sharegpt": {"conversations": TALK},
    "text": {"text": "Once upon a time."},
    "preference": {"prompt": "Which?", "chosen": "This.", "rejected": "That."},
}


def parquet_of(row):
    import pyarrow as pa
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([row] * 5), out)
    return out.getvalue()


def csv_of(row):
    cells = ['"' + str(value).replace('"', '""') + '"' for value in row.values()]
    return (",".join(row) + "\n" + (",".join(cells) + "\n") * 5).encode()


def good_files() -> dict[str, bytes]:
    """Whole files by name, one of each container and format."""
    files = {}
    for name, row in ROWS.items():
        line = json.dumps(row).encode() + b"\n"
        files[f"{name}.jsonl"] = line * 4 + json.dumps(row, ensure_ascii=False).encode() + b"\n"
        files[f"{name}.json"] = json.dumps([row] * 4, indent=1).encode()
        files[f"{name}-gz.jsonl.gz"] = gzip.compress(line * 5, mtime=0)
        if all(isinstance(value, str) for value in row.values()):
            files[f"{name}.csv"] = csv_of(row)
            files[f"{name}.parquet"] = parquet_of(row)
    return files


def fault_of(path: Path) -> str | None:
    """What is wrong with how a file was read; None where it was read or refused as it should be."""
    notes, begin = Notes(), time.process_time()
    try:
        reading = rows(path)
        for found in reading:
            if not isinstance(found, BadLine):
                notes.add(found)
            elif not (found.line >= 1 and (found.byte or 1) >= 1):
                return f"a bad line without a place: {found!r}"
        require_good(reading.data)
    except DataError as error:
        if not re.search(PLACE, error.message) and not re.search(WHOLE, error.message):
            return f"a refusal without a place: {error}"
    except Exception as error:  # noqa: BLE001  (that none comes is what is tested)
        return f"a crash: {error!r}"
    took_s = time.process_time() - begin
    return f"it took {took_s:.0f} s" if took_s > MOST_CPU_S else None


def row(**fields: Any) -> bytes:
    """A row that is fine, with these fields in it."""
    return json.dumps({"instruction": "Say it.", "output": "It.", **fields}).encode() + b"\n"


def talk(turns: int) -> bytes:
    """A conversation of so many turns."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": "a"} for n in range(turns)]
    return json.dumps({"messages": messages}).encode() + b"\n"


NAMED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "40,000 addresses": ("x.jsonl", lambda: row(instruction="a@b.co " * 40_000)),
    "a long word": ("x.jsonl", lambda: row(instruction="a" * 8_000_000)),
    "a long space": ("x.jsonl", lambda: row(instruction=" " * 8_000_000 + "x")),
    "a word of combining marks": ("x.jsonl", lambda: row(instruction="a" + "\u0301\u0316" * 700_000)),
    "letters that grow in NFKC": ("x.jsonl", lambda: row(instruction="\ufdfa" * 1_000_000)),
    "120,000 turns": ("x.jsonl", lambda: talk(120_000)),
    "3,000 turns": ("x.jsonl", lambda: talk(3_000)),
    "100,000 pairs of a history": ("x.jsonl", lambda: row(history=[["q", "a"]] * 100_000)),
    "400,000 keys": ("x.jsonl", lambda: row(**{f"k{n}": 1 for n in range(400_000)})),
    "a new key in each row": ("x.jsonl", lambda: b"".join(row(**{f"k{n}": 1}) for n in range(30_000))),
    "a number of 10 million digits": ("x.jsonl", lambda: row(z=0)[:-3] + b"9" * 10_000_000 + b"}\n"),
    "100,000 lists in lists": ("x.jsonl", lambda: row(z=0)[:-3] + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
    "3 million blank lines": ("x.jsonl", lambda: b"\n" * 3_000_000),
    "2,000 calls in a turn": ("x.jsonl", lambda: json.dumps({
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [
            {"id": str(n), "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(2_000)]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}).encode() + b"\n"),
    "a million open lists": ("x.json", lambda: b"[" * 1_000_000),
    "50 MB of white space in a list": ("x.json", lambda: b"[" + b" " * 50_000_000 + b"]"),
    "a file in a file in a file": ("x.jsonl.gz", lambda: gzip.compress(gzip.compress(row()))),
    "100,000 columns": ("x.csv", lambda: b",".join(b"c%d" % n for n in range(100_000)) + b"\n" + b",1" * 99_999),
    "a quote that never ends": ("x.csv", lambda: b'instruction,output\n"' + b"a\n" * 200_000),
    "four million quotes": ("x.csv", lambda: b'instruction,output\n"a""b' + b'""' * 4_000_000 + b'",x\n'),
}  # fmt: skip
"""Files of one row or cell that cost too much in a careless reader."""


@kind("data", "malformed datasets: costly rows, and mutations of good files", minutes=3)
def data(dice: random.Random, folder: Path) -> Generator[Attempt, None, None]:
    """Named files first, then mutations; each is read and its rows are noted as ``prepare`` does."""
    good = good_files()
    for name, content in good.items():
        (folder / name).write_bytes(content)
        assert fault_of(folder / name) is None, f"{name} is not good"
    for title, (name, make) in NAMED.items():
        yield Attempt(title, lambda name=name, make=make: survives(folder / name, make()))
    while True:
        name = dice.choice(sorted(good))
        content = mutated(good[name], dice)
        yield Attempt(f"{name} as {content[:120]!r}", lambda n=name, c=content: survives(folder / n, c))


def survives(path: Path, content: bytes) -> None:
    """A file with this content is read or refused with its place, within the time."""
    path.write_bytes(content)
    assert (fault := fault_of(path)) is None, fault
