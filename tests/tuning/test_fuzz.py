"""Good files of every container and format, mutated: nothing crashes or hangs, and every refusal names a place.

``FUZZ_FILES=10000 python -m pytest tests/tuning/test_fuzz.py`` reads more of them; a file is a function of its number,
so that a failure is made again by ``FUZZ_FIRST=number FUZZ_FILES=1``.
"""

import gzip
import io
import json
import os
import random
import re
import time

import pytest

from celora.settings.errors import DataError
from celora.tuning.faults import BadLine
from celora.tuning.formats import require_good, rows

FIRST, FILES = int(os.environ.get("FUZZ_FIRST", "0")), int(os.environ.get("FUZZ_FILES", "400"))
HANG_S = 10
PLACE = r"(line \d+, (column|byte) \d+|byte \d+|row \d+)"
WHOLE = r"holds no rows|is for the preference training|which are for the preference training"
"""Refusals of a file as a whole, which has no place to name."""

SPLICES = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\n", b"\r", b"\0", b" ", b"\t", b"'", b";", b"-", b"#"),
    *(b"\\ud800", b"\\u0000", b"\\u", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80"),
    *(b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"9" * 500, b"[" * 100, b'{"a":' * 100, b'"x":1,"x":2,'),
    *(b'"messages"', b'"role"', b'"tool"', b'"prompt"', b'"text"', b'"weight":2,', b'"content":null,', b"PAR1", b'""'),
]

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


@pytest.fixture(scope="module")
def good():
    """Whole files by name; each is read without complaint before anything is mutated."""
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


def mutated(content, dice):
    """The content with one to four changes."""
    made = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4))):
        at, size = dice.randrange(len(made) + 1), dice.choice((1, 1, 2, 5, 20, 100))
        match dice.randrange(8):
            case 0 if at < len(made):
                made[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(made):
                made[at] = dice.randrange(256)
            case 2:
                del made[at : at + size]
            case 3:
                made[at:at] = dice.choice(SPLICES)
            case 4:
                made[at : at + size] = dice.choice(SPLICES)
            case 5:
                made[at:at] = made[at : at + size] * dice.choice((1, 2, 50))
            case 6:
                del made[at:]
            case _:
                other = dice.randrange(len(made) + 1)
                made[other:other] = made[at : at + size]
    return bytes(made)


def fault_of(path):
    """What is wrong with how a file was read; None where it was read or refused as it should be."""
    reading, begin = None, time.monotonic()
    try:
        reading = rows(path)
        for found in reading:
            if isinstance(found, BadLine) and not (found.line >= 1 and max(found.column or 0, found.byte or 0) >= 1):
                return f"a bad line without a place: {found!r}"
        require_good(reading.data)
    except DataError as error:
        if not re.search(PLACE, error.message) and not re.search(WHOLE, error.message):
            return f"a refusal without a place: {error}"
    except Exception as error:  # noqa: BLE001  (that none comes is what is tested)
        return f"a crash: {error!r}"
    took_s = time.monotonic() - begin
    return f"it took {took_s:.0f} s" if took_s > HANG_S else None


def test_mutated_files_are_read_or_refused_with_their_place(good, tmp_path):
    for name, content in good.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert fault_of(path) is None, name
        assert rows(path).data.bad.total == 0
    faults = {}
    for number in range(FIRST, FIRST + FILES):
        dice = random.Random(number)  # noqa: S311  (no secret)
        name = dice.choice(sorted(good))
        path = tmp_path / name
        path.write_bytes(mutated(good[name], dice))
        if fault := fault_of(path):
            faults[number] = f"{name}: {fault}"
    assert faults == {}
