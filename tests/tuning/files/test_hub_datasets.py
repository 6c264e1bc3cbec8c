"""Datasets of a hub: which files are taken, fetched with the real huggingface_hub from a small local server."""

import hashlib
import http.server
import json
import re
import threading
from urllib.parse import unquote, urlsplit

import pytest

from celora.errors import DataError, LimitError, UnavailableError
from celora.tuning.files.hub_datasets import HubDataset, fetch_hub_dataset
from celora.tuning.protocol import HubAccess
from celora.tuning.rows.data_file import require_good
from celora.tuning.rows.row_reader import read

COMMIT = "a" * 40
CARD = """---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: ["main/test-*"]
- config_name: socratic
  data_files: socratic/*.jsonl
---
# GSM8K
"""


def rows(start, count):
    lines = [json.dumps({"question": f"{n}?", "answer": f"{n}."}) for n in range(start, start + count)]
    return ("\n".join(lines) + "\n").encode()


FILES = {
    "README.md": CARD.encode(),
    "gsm8k.py": b"raise SystemExit('code of a dataset ran')",
    "main/train-00000-of-00002.jsonl": rows(0, 3),
    "main/train-00001-of-00002.jsonl": rows(3, 2),
    "main/test-00000-of-00001.jsonl": rows(90, 1),
    "socratic/train.jsonl": rows(50, 1),
}


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, *, body=True):
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append(path)
        self.body = body
        api = re.fullmatch(r"/api/datasets/org/rows(?:/revision/(.+))?", path)
        file = re.fullmatch(rf"/datasets/org/rows/resolve/{COMMIT}/(.+)", path)
        if api and (api[1] or "main") not in ("main", "v1", COMMIT):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if api:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.server.files.items()]
            return self.answer(200, json.dumps({"id": "org/rows", "sha": COMMIT, "siblings": siblings}).encode())
        if file and file[1] in self.server.files:
            content = self.server.files[file[1]]
            etag = hashlib.sha256(content).hexdigest()
            return self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        if "/org/gated" in path:
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound" if file else "RepoNotFound"})

    def answer(self, status, content, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.body:
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads, server.files, server.seen = True, dict(FILES), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.access = HubAccess(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetched(hub, tmp_path):
    def fetched(source, most=0):
        return fetch_hub_dataset(HubDataset.parse(source), tmp_path / "to", hub.access, most, lambda *_, **__: None)

    (tmp_path / "to").mkdir()
    return fetched


def test_the_files_of_a_split_become_one_file_in_their_order(fetched, hub):
    path = fetched("hub:org/rows?revision=v1")
    data = read(path)
    require_good(data)
    assert path.name == "org--rows-train.jsonl"
    assert [row.messages[0]["content"] for row in data.rows] == ["0?", "1?", "2?", "3?", "4?"]
    assert not any(name.endswith(".py") for name in hub.seen)
    assert all("test" not in name and "socratic" not in name for name in hub.seen)


def test_a_single_file_is_kept_as_it_is(fetched):
    path = fetched("hub:org/rows?config=main&split=test")
    assert (path.name, path.read_bytes()) == ("org--rows-main-test.jsonl", FILES["main/test-00000-of-00001.jsonl"])
    assert fetched("hub:org/rows?config=socratic").read_bytes() == FILES["socratic/train.jsonl"]


def test_parquet_files_are_joined_too(fetched, hub):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def parquet(values):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(values), sink)
        return sink.getvalue().to_pybytes()

    hub.files = {
        "data/train-0.parquet": parquet([{"text": "a", "picture": b"\x00\x01"}]),
        "data/train-1.parquet": parquet([{"text": "b", "picture": None}]),
    }
    data = read(fetched("hub:org/rows"))
    require_good(data)
    assert [row.messages[0]["content"] for row in data.rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("hub:org/rows?split=dev", DataError, r"no split 'dev'; it has test, train"),
        ("hub:org/rows?config=other", DataError, "configurations main, socratic, and none called other"),
        ("hub:org/rows?revision=v9", DataError, "no revision 'v9'"),
        ("hub:org/nothing", DataError, "has no dataset org/nothing"),
        ("hub:org/gated", DataError, "is gated"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(fetched, source, error, words):
    with pytest.raises(error, match=words) as caught:
        fetched(source)
    assert caught.value.hint


def test_a_dataset_that_is_too_large_is_refused_before_its_rows_are_fetched(fetched, hub):
    with pytest.raises(LimitError, match="more than"):
        fetched("hub:org/rows", most=50)
    assert not any("train" in name for name in hub.seen)


def test_a_dataset_that_is_code_is_refused(fetched, hub):
    hub.files = {"README.md": b"# code", "rows.py": FILES["gsm8k.py"], "dataset_infos.json": b"{}"}
    with pytest.raises(DataError, match="no data files that can be read"):
        fetched("hub:org/rows")


def test_no_hub_is_asked_offline_and_a_dead_one_is_told(tmp_path):
    dataset, silent = HubDataset.parse("hub:org/rows"), lambda *_, **__: None
    with pytest.raises(UnavailableError, match="offline"):
        fetch_hub_dataset(dataset, tmp_path, HubAccess(offline=True), 0, silent)
    with pytest.raises(UnavailableError, match="did not give"):
        fetch_hub_dataset(dataset, tmp_path, HubAccess(endpoint="http://127.0.0.1:9"), 0, silent)
