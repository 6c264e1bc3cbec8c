"""Files made to hurt: each is refused with its place, or read with a named fix, in bounded time and memory.

All are read in one child process under the limits of the trainer program; what it says of each file is checked here.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import zlib

import pytest

from celora.errors import DataError
from celora.services.job_checks import check_spec
from celora.settings.settings import load_settings
from celora.storage.paths import confine

MEMORY_BYTES = 300 * 2**20
"""What reading any of these files may take, resident, above the idle process."""

TIME_S = 30
MIB = 2**20
PLACE = r"(line \d+[,: ]|byte \d+|row \d+)"
GOOD = b'{"prompt": "What is two and two?", "completion": "Four."}\n'


def row(**fields):
    return json.dumps({"prompt": "q", "completion": "a", **fields}).encode() + b"\n"


def chat(messages):
    return json.dumps({"messages": messages}).encode() + b"\n"


ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}

REFUSED = {
    "latin-1": ("x.jsonl", GOOD + '{"prompt": "café", "completion": "a"}\n'.encode("latin-1"), "line 2, byte 16"),
    "utf-16 little": ("x.jsonl", GOOD.decode().encode("utf-16"), "UTF-16"),
    "utf-16 big": ("x.jsonl", b"\xfe\xff" + GOOD.decode().encode("utf-16-be"), "UTF-16"),
    "utf-32": ("x.jsonl", GOOD.decode().encode("utf-32"), "UTF-16|NUL|not UTF-8"),
    "half a character at the end": ("x.jsonl", GOOD + b'{"prompt": "\xe2\x82', "line 2, byte 13"),
    "overlong utf-8": ("x.jsonl", b'{"prompt": "\xc0\xaf", "completion": "a"}\n', "byte 13"),
    "surrogate as utf-8": ("x.jsonl", b'{"prompt": "\xed\xa0\x80", "completion": "a"}\n', "byte 13"),
    "NUL byte": ("x.jsonl", b'{"prompt": "a\0b", "completion": "a"}\n', "NUL"),
    "NUL bytes only": ("x.jsonl", lambda: b"\0" * MIB, "NUL"),
    "NUL escaped": ("x.jsonl", rb'{"prompt": "a\u0000b", "completion": "a"}' + b"\n", r"line 1: .*NUL.*\(column 14\)"),
    "lone high surrogate": ("x.jsonl", rb'{"prompt": "\ud800", "completion": "a"}' + b"\n", "half a character"),
    "lone low surrogate": ("x.jsonl", rb'{"prompt": "\udc00", "completion": "a"}' + b"\n", "half a character"),
    "surrogates reversed": ("x.jsonl", rb'{"prompt": "\udc00\ud800", "completion": "a"}' + b"\n", "half a character"),
    "surrogate in a key": ("x.jsonl", rb'{"\ud800": "x", "prompt": "q"}' + b"\n", "half a character"),
    "BOM in the middle": ("x.jsonl", GOOD + b"\xef\xbb\xbf" + GOOD, "line 2"),
    "CR alone": ("x.jsonl", GOOD.replace(b"\n", b"\r") * 3, "CR alone"),
    "raw line feed in text": ("x.jsonl", b'{"prompt": "a\nb", "completion": "a"}\n', "line 1: .*column"),
    "raw tab in text": ("x.jsonl", b'{"prompt": "a\tb", "completion": "a"}\n', "control character"),
    "array in a jsonl": ("x.jsonl", b"[" + GOOD.strip() + b"]\n", "array"),
    "array over lines": ("x.jsonl", b"[\n" + GOOD.strip() + b"\n]\n", "array"),
    "object over lines": ("x.jsonl", b'{\n"prompt": "q",\n"completion": "a"\n}\n', "several lines"),
    "two objects on a line": ("x.jsonl", GOOD.strip() * 2 + b"\n", "second value"),
    "comma after each line": ("x.jsonl", GOOD.strip() + b",\n", "line 1: .*column"),
    "comma before the end": ("x.jsonl", b'{"prompt": "q", "completion": "a",}\n', "line 1: .*column"),
    "single quotes": ("x.jsonl", b"{'prompt': 'q'}\n", r"line 1: .*\(column 2\)"),
    "a comment": ("x.jsonl", b"// rows\n" + GOOD, r"line 1: .*\(column 1\)"),
    "cut in the middle": ("x.jsonl", GOOD * 3 + GOOD[:20], "line 4: .*column"),
    "not an object": ("x.jsonl", b'42\n"text"\nnull\ntrue\n', "no JSON object"),
    "depth 1e6 of lists": ("x.jsonl", lambda: b'{"prompt": ' + b"[" * 10**6 + b"]" * 10**6 + b"}\n", "nested"),
    "depth 1e6 of objects": ("x.jsonl", lambda: b'{"a":' * 10**6 + b"1" + b"}" * 10**6 + b"\n", "nested"),
    "depth 1e6, never closed": ("x.jsonl", lambda: b"[" * 10**6, "nested|array"),
    "an integer of a million digits": ("x.jsonl", lambda: b'{"prompt": ' + b"9" * 10**6 + b"}\n", "too many digits"),
    "a fraction of a million digits": ("x.jsonl", lambda: b'{"prompt": 0.' + b"9" * 10**6 + b"}\n", "too many digits"),
    "an exponent without end": ("x.jsonl", b'{"prompt": 1e999999999}\n', "too large"),
    "NaN": ("x.jsonl", b'{"prompt": NaN, "completion": "a"}\n', "line 1, prompt: NaN"),
    "Infinity": ("x.jsonl", b'{"prompt": -Infinity, "completion": "a"}\n', "Infinity"),
    "a key twice": ("x.jsonl", b'{"prompt": "q", "prompt": "r", "completion": "a"}\n', "line 1, prompt: .*twice"),
    "a key twice, deep": ("x.jsonl", b'{"messages": [{"role": "user", "role": "user", "content": "x"}]}\n', "twice"),
    "a million keys": ("x.jsonl", lambda: b"{" + b",".join(b'"%d":1' % n for n in range(10**6)) + b"}\n", "values"),
    "a million empty objects": ("x.jsonl", lambda: b'{"prompt": [' + b"{}," * 10**6 + b"{}]}\n", "values"),
    "a million empty lists": ("x.jsonl", lambda: b'{"prompt": [' + b"[]," * 10**6 + b"[]]}\n", "values"),
    "three million short texts": ("x.jsonl", lambda: b'{"a": [' + b'"ab",' * 3_000_000 + b'""]}\n', PLACE),
    "a line of 64 MiB": ("x.jsonl", lambda: GOOD + b'{"a": "' + b"x" * (64 * MIB) + b'"}\n', "line 2, byte"),
    "64 MiB without a line feed": ("x.jsonl", lambda: b"x" * (64 * MIB), "longer than"),
    "16 MiB of quotes": ("x.jsonl", lambda: b'"' * (16 * MIB - 1) + b"\n", PLACE),
    "16 MiB of backslashes": ("x.jsonl", lambda: b'{"a": "' + b"\\" * (15 * MIB) + b"\n", PLACE),
    "a hundred thousand bad lines": ("x.jsonl", lambda: b"{}\n" * 100_000, "100000 bad lines.*stopped"),
    "rows of two formats": ("x.jsonl", GOOD * 3 + chat([ASKED, ANSWERED]), "line 4"),
    "no known keys": ("x.jsonl", b'{"foo": "bar"}\n', "line 1: the keys"),
    "an empty key": ("x.jsonl", b'{"": ""}\n', "line 1"),
    "prompt is a number": ("x.jsonl", row(prompt=7), "line 1, prompt: "),
    "completion is an object": ("x.jsonl", row(completion={"text": "a"}), "line 1, completion: "),
    "completion is null": ("x.jsonl", row(completion=None), "line 1, completion: "),
    "prompt is empty": ("x.jsonl", row(prompt=""), "empty"),
    "completion is white space": ("x.jsonl", row(completion=" \n\t"), "empty"),
    "messages is an object": ("x.jsonl", chat({}), "line 1, messages: "),
    "messages is empty": ("x.jsonl", chat([]), "empty"),
    "messages of texts": ("x.jsonl", chat(["q", "a"]), "message 1"),
    "messages of null": ("x.jsonl", chat([None]), "message 1"),
    "a message without a role": ("x.jsonl", chat([{"content": "q"}, ANSWERED]), "role"),
    "a role that is a list": ("x.jsonl", chat([{"role": ["user"], "content": "q"}, ANSWERED]), "role"),
    "a role that nobody knows": ("x.jsonl", chat([{"role": "wizard", "content": "q"}, ANSWERED]), "wizard"),
    "content is a number": ("x.jsonl", chat([{"role": "user", "content": 1}, ANSWERED]), r"messages\[0\].content: "),
    "no answer": ("x.jsonl", chat([ASKED]), "assistant"),
    "ends with the user": ("x.jsonl", chat([ASKED, ANSWERED, ASKED]), "last message"),
    "weight of two": ("x.jsonl", chat([ASKED, {**ANSWERED, "weight": 2}]), "weight"),
    "weight is NaN's text": ("x.jsonl", chat([ASKED, {**ANSWERED, "weight": "NaN"}]), "weight"),
    "tools of the wrong type": ("x.jsonl", row(messages=[ASKED, ANSWERED], tools="all"), PLACE),
    "history is a text": ("x.jsonl", b'{"instruction": "i", "output": "o", "history": "h"}\n', "history"),
    "conversations of numbers": ("x.jsonl", b'{"conversations": [1, 2]}\n', PLACE),
    "json: an object": ("x.json", b'{"data": []}', "holds an empty list under 'data'"),
    "json: never closed": ("x.json", b"[" + GOOD.strip(), "ends before"),
    "json: two arrays": ("x.json", b"[" + GOOD.strip() + b"][]", "follows"),
    "json: no comma": ("x.json", b"[" + GOOD + GOOD + b"]", "comma"),
    "json: nothing but commas": ("x.json", b"[,,,]", PLACE),
    "json: an element of 64 MiB": ("x.json", lambda: b'[{"prompt": "' + b"x" * (64 * MIB) + b'"}]', "longer than"),
    "json: depth 1e6": ("x.json", lambda: b"[" * 10**6, PLACE),
    "json: numbers": ("x.json", b"[1, 2, 3]", PLACE),
    "json: cut in a string": ("x.json", b'[{"prompt": "q', PLACE),
    "csv: too many cells": ("x.csv", b"prompt,completion\nq,a,b\n", "line 2"),
    "csv: too few cells": ("x.csv", b"prompt,completion\nq\n", "line 2"),
    "csv: an open quote": ("x.csv", b'prompt,completion\n"q,a\n' + b"q,a\n" * 100, "never closes|may be open"),
    "csv: a cell of 64 MiB": ("x.csv", lambda: b'prompt,completion\n"' + b"x\n" * (32 * MIB) + b'",a\n', "line"),
    "csv: the same column twice": ("x.csv", b"prompt,prompt\nq,a\n", "line 1"),
    "csv: NUL": ("x.csv", b"prompt,completion\nq\0,a\n", "line 2"),
    "csv: latin-1": ("x.csv", "prompt,completion\ncafé,a\n".encode("latin-1"), "line 2, byte"),
    "csv: no header": ("x.csv", b"What is it?,A test.\nq,a\n", "line"),
    "parquet: no parquet": ("x.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "row 0"),
    "parquet: the head alone": ("x.parquet", b"PAR1", "row 0"),
    "parquet: text": ("x.parquet", GOOD, "row 0"),
    "parquet called jsonl": ("x.jsonl", b"PAR1" + b"\0" * 100, "byte 1"),
    "gzip: cut": ("x.jsonl.gz", gzip.compress(GOOD * 1000)[:-20], "damaged.*byte"),
    "gzip: the head alone": ("x.jsonl.gz", gzip.compress(b"")[:10], "damaged.*byte"),
    "gzip: bits turned": ("x.jsonl.gz", gzip.compress(bytes(range(256)))[:40] + b"\xff" * 40, "damaged|byte"),
    "gzip: a wrong checksum": ("x.jsonl.gz", gzip.compress(GOOD)[:-8] + b"\0" * 8, "damaged.*byte"),
    "gzip: rubbish behind": ("x.jsonl.gz", gzip.compress(GOOD) + b"rubbish", "damaged.*byte|" + PLACE),
    "gzip: a bomb of one line": ("x.jsonl.gz", lambda: gzip.compress(b"\0" * (256 * MIB)), PLACE),
    "gzip: a bomb of blank lines": (
        "x.jsonl.gz",
        lambda: gzip.compress(b"\n" * (256 * MIB)),
        "unpacks to more.*byte|blank",
    ),
    "gzip: a bomb of rows": ("x.jsonl.gz", lambda: gzip.compress(b"{}\n" * (64 * MIB)), "reading stopped"),
    "gzip: a bomb in an array": ("x.json.gz", lambda: gzip.compress(b"[" + b" " * (256 * MIB)), "unpacks.*byte"),
    "gzip: a bomb for csv": ("x.csv.gz", lambda: gzip.compress(b"a,b\n" + b"\n" * (256 * MIB)), "blank lines|unpacks"),
    "zip called jsonl": ("x.jsonl", b"PK\x03\x04" + b"\0" * 100, "zip"),
    "zstd called gz": ("x.jsonl.gz", b"\x28\xb5\x2f\xfd" + b"\0" * 100, "zstd"),
    "zlib called gz": ("x.jsonl.gz", zlib.compress(GOOD), PLACE),
    "text called gz": ("x.jsonl.gz", b"not a row\n", PLACE),
    "an executable": ("x.jsonl", b"\x7fELF" + bytes(range(256)) * 16, PLACE),
    "an image": ("x.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), PLACE),
}
"""By name: the file's name, its content (large ones are made when needed), and what the refusal must say."""

WITHOUT_ROWS = {
    "nothing at all": ("x.jsonl", b"", "no rows"),
    "blank lines alone": ("x.jsonl", b"\n \n\t\n\r\n", "no rows"),
    "a BOM alone": ("x.jsonl", b"\xef\xbb\xbf", "no rows"),
    "json: an empty array": ("x.json", b"[]", "no rows"),
    "csv: a header alone": ("x.csv", b"prompt,completion\n", "no rows"),
    "gzip: of nothing": ("x.jsonl.gz", gzip.compress(b""), "no rows"),
    "an unknown ending": ("x.docx", b"PK", "name must end in"),
    "no ending": ("rows", GOOD, "name must end in"),
}
"""Refused as a whole: there is no place to name."""

MENDED = {
    "a BOM": ("x.jsonl", b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "CR LF": ("x.jsonl", GOOD.replace(b"\n", b"\r\n") * 3, "CR LF"),
    "blank lines": ("x.jsonl", GOOD + b"\n\n" + GOOD, "blank"),
    "no line feed at the end": ("x.jsonl", GOOD.strip(), ""),
    "gzip called jsonl": ("x.jsonl", gzip.compress(GOOD), ""),
    "plain text called gz": ("x.jsonl.gz", GOOD, ""),
    "two gzips in one": ("x.jsonl.gz", gzip.compress(GOOD) * 2, ""),
    "jsonl called json": ("x.json", GOOD * 2, "one object a line"),
    "csv with semicolons": ("x.csv", b"prompt;completion\nq;a\n", "';'"),
    "a hundred thousand characters outside the BMP": ("x.jsonl", lambda: row(prompt="😀" * 100_000), ""),
    "keys that nobody uses": ("x.jsonl", row(id=1, extra=[1, {"deep": None}]), "not used"),
}
"""Read all the same; the notes say what was done about it."""

READ = """
import json, sys, time
from pathlib import Path
from celora.errors import CeloraError
from celora.tuning import resource_limits as limits
from celora.tuning.files.faults import BadLine
from celora.tuning.rows.data_file import require_good
from celora.tuning.rows.row_reader import rows
from celora.tuning.protocol import Limits

def resident():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) * 1024, int(fields["VmRSS"].split()[0]) * 1024

import csv, pyarrow.parquet
limits.impose(Limits(memory_bytes=2**30, cpu_s=900, file_bytes=2**20, wall_s=900), limits.end_with(print))
for line in sys.stdin:
    name, path = json.loads(line)
    Path("/proc/self/clear_refs").write_text("5")
    idle, begin = resident()[1], time.monotonic()
    told = {"name": name, "places": [], "notes": [], "rows": 0, "error": "", "kind": ""}
    try:
        reading = rows(Path(path))
        for found in reading:
            told["rows"] += not isinstance(found, BadLine)
        require_good(reading.data)
        told["notes"] = reading.data.notes
    except CeloraError as error:
        told["error"], told["kind"] = f"{error.message} {error.hint}", type(error).__name__
        told["places"] = [str(bad) for bad in getattr(error, "bad", None).shown] if hasattr(error, "bad") else []
    except BaseException as error:
        told["error"], told["kind"] = repr(error)[:500], "crash"
    told["took_s"], told["bytes"] = time.monotonic() - begin, resident()[0] - idle
    print(json.dumps(told), flush=True)
"""


def read_all(files, folder):
    """What a child process says of each file, by name."""
    asked = []
    for number, (name, (called, content, _)) in enumerate(files.items()):
        (folder / str(number)).mkdir()
        path = folder / str(number) / called
        path.write_bytes(content() if callable(content) else content)
        asked.append(json.dumps([name, str(path)]))
    done = subprocess.run(
        [sys.executable, "-c", READ], input="\n".join(asked), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return {told["name"]: told for told in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """By name, what was said; each file is read once for all tests."""
    folder = tmp_path_factory.mktemp("hostile")
    found = read_all({**REFUSED, **WITHOUT_ROWS, **MENDED}, folder)
    left = [path for path in folder.iterdir() if len(list(path.iterdir())) != 1]
    assert left == []  # nothing lies beside any of them
    shutil.rmtree(folder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused_with_its_place(told, name):
    said = told[name]
    assert said["kind"] in ("BadRowsError", "DataError", "LimitError"), said
    assert re.search(PLACE, said["error"]), said["error"]
    assert re.search(REFUSED[name][2], said["error"], re.DOTALL), said["error"]
    assert all(re.search(PLACE, place) for place in said["places"])


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_ROWS)
def test_a_file_without_rows_is_refused(told, name):
    assert told[name]["kind"] == "DataError"
    assert re.search(WITHOUT_ROWS[name][2], told[name]["error"])


@pytest.mark.slow
@pytest.mark.parametrize("name", MENDED)
def test_what_can_be_mended_is_read_and_noted(told, name):
    assert (told[name]["error"], told[name]["rows"] > 0) == ("", True)
    assert MENDED[name][2] in "; ".join(told[name]["notes"])


@pytest.mark.slow
def test_no_hostile_file_takes_much_time_or_memory(told):
    slow = {name: said["took_s"] for name, said in told.items() if said["took_s"] > TIME_S}
    large = {name: said["bytes"] / MIB for name, said in told.items() if said["bytes"] > MEMORY_BYTES}
    assert (slow, large) == ({}, {})


def test_there_are_enough_of_them():
    assert len(REFUSED) >= 60


@pytest.fixture
def place(tmp_path):
    """Makes what is no file where a file should be; the folder to stay in is ``roots``."""
    (tmp_path / "roots").mkdir()
    (tmp_path / "secret.jsonl").write_bytes(GOOD)
    return tmp_path / "roots" / "x.jsonl"


def refusal_of(path):
    found = read_one(path)
    assert found["kind"] == "DataError", found
    return found["error"]


def read_one(path):
    line = json.dumps(["it", str(path)])
    command = [sys.executable, "-c", READ]
    done = subprocess.run(command, input=line, capture_output=True, text=True, timeout=TIME_S, check=False)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_what_is_no_file_is_never_opened(place):
    os.mkfifo(place)
    assert "no regular file" in refusal_of(place)
    place.unlink()
    place.mkdir()
    assert "is a folder" in refusal_of(place)
    place.rmdir()
    place.symlink_to("/dev/zero")
    assert "no regular file" in refusal_of(place)
    place.unlink()
    place.symlink_to(place)
    assert "cannot be read" in refusal_of(place) or "does not exist" in refusal_of(place)


def test_a_link_that_leads_out_of_the_roots_is_refused(place):
    place.symlink_to("../secret.jsonl")
    with pytest.raises(DataError, match="lies outside the allowed folders"):
        confine(str(place), [place.parent])
    inside = place.with_name("inside.jsonl")
    inside.write_bytes(GOOD)
    assert confine(str(inside), [place.parent]) == inside


SPECS = {
    "file:///etc/passwd": "URL|file:",
    "file:/etc/passwd": "URL|file:",
    "/etc/*.jsonl": "outside the allowed",
    "/d[a-z]ta/x.jsonl": "outside the allowed",
    "/data/../?.jsonl": "outside the allowed",
    "*.jsonl": "relative",
    "simplecache::https://example.org/x.jsonl": "chain|URL|refused|allowed",
    "zip://x.jsonl::/data/x.zip": "chain|URL|allowed",
    "https://user@example.org@evil.example/x.jsonl": "allowed|host|user",
    "ftp://example.org/x.jsonl": "allowed|URL|scheme",
    "memory://x.jsonl": "allowed|URL|scheme",
    "github://org:repo@/x.jsonl": "allowed|URL|scheme",
    "http://169.254.169.254/latest/meta-data": "allowed|https|host|scheme",
    "relative/../../x.jsonl": "relative",
    "/data/x\0.jsonl": "control characters",
    "/data/../outside/x.jsonl": "outside the allowed",
    "~/x.jsonl": "relative",
}
"""Sources that no job may name, and what their refusal says."""


@pytest.mark.parametrize("source", SPECS)
def test_a_source_that_leads_astray_is_refused_at_the_door(home, monkeypatch, source):
    monkeypatch.setenv("CELORA_ALLOWED_ROOTS", '["/data"]')
    with pytest.raises(DataError, match=SPECS[source]):
        check_spec({"base_model": "smollm2-135m-instruct", "dataset": source}, load_settings())
    with pytest.raises(DataError):
        check_spec(
            {"base_model": "smollm2-135m-instruct", "dataset": "/data/x.jsonl", "eval_dataset": {"held": source}},
            load_settings(),
        )
