"""Where datasets may come from: a small web server, and one that speaks enough of S3 for the real s3fs."""

import http.server
import importlib
import os
import re
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.errors import DataError, LimitError, SettingsError, UnavailableError
from celora.tuning import web_connection
from celora.tuning.files.hub_datasets import HubDataset
from celora.tuning.files.source_files import fetching
from celora.tuning.files.sources import fetch, is_remote, judge
from celora.tuning.protocol import HubAccess, PrepareRequest, SourceAccess
from celora.tuning.recipe import Recipe

registry = importlib.import_module("fsspec.registry")  # fsspec gives that name to a mapping, too

ROWS = b'{"prompt": "2+2?", "completion": "4"}\n' * 100


class Answer(http.server.BaseHTTPRequestHandler):
    """Files of the server by path: bytes, or a place to be sent to."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, *, body=True):
        path = urlsplit(self.path).path
        found = self.server.files.get(path)
        self.server.seen.append((self.command, self.path, self.headers.get("Host")))
        if isinstance(found, str):
            return self.answer(302, b"", {"Location": found})
        if found is None:
            return self.answer(404, b"")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and body:
            start, end = int(asked[1]), min(int(asked[2] or len(found)), len(found) - 1)
            part = {"Content-Range": f"bytes {start}-{end}/{len(found)}"}
            return self.answer(206, found[start : end + 1], part)
        return self.answer(200, found, body=body)

    def answer(self, status, content, headers=None, *, body=True):
        self.send_response(status)
        length = {"Content-Length": str(len(content) + self.server.lie), "ETag": '"1"'}
        for name, value in {**length, "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads, server.files, server.seen, server.lie = True, {"/rows.jsonl": ROWS}, [], 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.host = f"127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def silent(*_args, **_fields):
    pass


@pytest.fixture
def request_with(tmp_path):
    def request_with(dataset, *, evals=None, schemes=("http", "https", "s3", "gs", "hub"), hosts=("*",), most=0):
        return PrepareRequest(
            job="job",
            attempt=1,
            cache_dir=str(tmp_path / "cache"),
            hub=HubAccess(offline=True),
            base_model="base",
            dataset=dataset,
            eval_datasets=evals or {},
            recipe=Recipe(),
            seed=1,
            out_dir=str(tmp_path / "prepared"),
            sources=SourceAccess(allowed_schemes=list(schemes), allowed_hosts=list(hosts), max_bytes=most),
        )

    return request_with


ALL = SourceAccess(allowed_schemes=["http", "https", "s3", "gs", "hub"], allowed_hosts=["*"])


def test_nothing_remote_is_allowed_unless_an_operator_says_so():
    for source in ("https://example.org/x.jsonl", "s3://bucket/x.jsonl", "hub:org/name"):
        with pytest.raises(DataError, match="not allowed on this installation") as caught:
            judge(source, SourceAccess())
        assert "CELORA_ALLOWED_SCHEMES" in caught.value.hint
    with pytest.raises(DataError, match=r"the host example.org is not allowed") as caught:
        judge("https://example.org/x.jsonl", SourceAccess(allowed_schemes=["https"], allowed_hosts=["example.com"]))
    assert "CELORA_ALLOWED_HOSTS" in caught.value.hint
    with pytest.raises(DataError, match=r"the bucket mine is not allowed"):
        judge("s3://mine/x.jsonl", SourceAccess(allowed_schemes=["s3"], allowed_hosts=["theirs"]))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("file:///etc/passwd.jsonl", "file:// URL"),
        ("FILE:/etc/passwd.jsonl", "file:// URL"),
        ("ftp://example.org/x.jsonl", "which celora does not read"),
        ("memory://x.jsonl", "which celora does not read"),
        ("data:text/plain,x.jsonl", "which celora does not read"),
        ("simplecache::https://example.org/x.jsonl", "a chain of URLs"),
        ("https://example.org/a.zip::x.jsonl", "a chain of URLs"),
        ("https://user:secret@example.org/x.jsonl", "carries a user or a password"),
        ("https://user@example.org/x.jsonl", "carries a user or a password"),
        ("https://example.org/*.jsonl", "a pattern"),
        ("https://example.org/[ab].jsonl", "a pattern|no URL"),
        ("s3://bucket/x?.jsonl", "a pattern"),
        ("s3://bucket/{a,b}.jsonl", "a pattern"),
        ("https://example.org/../x.jsonl", "climbs"),
        ("https://example.org/%2e%2e/x.jsonl", "climbs"),
        ("https://example.org/x.jsonl#part", "a fragment"),
        ("https://example.org/ x.jsonl", "white space"),
        ("https://example.org/x\n.jsonl", "control characters"),
        ("https://example.org\\@evil/x.jsonl", "backslashes"),
        ("https:/example.org/x.jsonl", "names no host"),
        ("https:///x.jsonl", "names no host"),
        ("https://example.org:99999/x.jsonl", "no URL"),
        ("https://example.org/rows.exe", "names no file that can be read"),
        ("https://example.org/", "names no file that can be read"),
        ("hub:", "names no dataset of the hub"),
        ("hub:a/b/c", "names no dataset of the hub"),
        ("hub:../name", "names no dataset of the hub"),
        ("hub:org/name?script=x", "names no dataset of the hub"),
        ("hub:org/name?split=a&split=b", "names no dataset of the hub"),
        ("hub:org/name?split=../x", "names no dataset of the hub"),
        ("hub:org/name?revision=a b", "white space"),
    ],
)
def test_what_is_no_plain_source_is_refused_in_words(source, words):
    assert is_remote(source)
    with pytest.raises(DataError, match=words) as caught:
        judge(source, ALL)
    assert caught.value.hint
    assert "secret" not in str(caught.value)


@given(st.text(alphabet="ab/:@.*?#%[]\\ \n0-s3hutp", max_size=40))
def test_whatever_is_let_through_names_one_allowed_host(tail):
    access = SourceAccess(allowed_schemes=["https"], allowed_hosts=["data.example.org"])
    try:
        remote = judge("https://" + tail, access)
    except DataError:
        return
    assert urlsplit(remote.url).hostname == "data.example.org"


def test_a_local_path_is_not_remote():
    assert [is_remote(source) for source in ("/data/x.jsonl", "x.jsonl", "C:x.jsonl", "hub/x.jsonl", "hubs:x")] == [
        False
    ] * 5


def test_hub_ids_have_a_configuration_a_split_and_a_revision():
    found = judge("hub:openai/gsm8k?config=main&split=test&revision=abc", ALL)
    assert found.hub == HubDataset("openai/gsm8k", "main", "test", "abc")
    assert judge("hub:openai/gsm8k", ALL).hub == HubDataset("openai/gsm8k", None, "train", None)


def test_a_file_is_fetched_whole_and_under_its_own_name(web, tmp_path, request_with, recorder):
    url = f"http://{web.host}/rows.jsonl?signature=secret"
    events = recorder()
    request = request_with(url, hosts=[web.host])
    path = fetch(judge(url, request.sources), tmp_path / "to", request, events)
    assert (path.name, path.read_bytes()) == ("rows.jsonl", ROWS)
    last = events.of("phase")[-1]
    assert (last["phase"], last["done"], last["total"]) == ("fetch rows.jsonl", len(ROWS), len(ROWS))


def test_a_redirect_is_judged_like_the_first_address(web, tmp_path, request_with):
    web.files |= {
        "/here.jsonl": "/rows.jsonl",
        "/away.jsonl": "http://localhost:1/rows.jsonl",
        "/meta.jsonl": "http://169.254.169.254/latest",
        "/file.jsonl": "file:///etc/passwd",
        "/bucket.jsonl": "s3://bucket/x.jsonl",
        "/loop.jsonl": "/loop.jsonl",
        "/user.jsonl": f"http://me:secret@{web.host}/rows.jsonl",
    }

    def fetched(name):
        url = f"http://{web.host}/{name}.jsonl"
        request = request_with(url, hosts=[web.host])
        return fetch(judge(url, request.sources), tmp_path / name, request, silent)

    assert fetched("here").read_bytes() == ROWS
    for name, words in {
        "away": "host localhost:1 is not allowed", "meta": "169.254.169.254 is not allowed", "file": "file://",
        "bucket": "bucket", "loop": "more than 5 times", "user": "a user or a password",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=words):
            fetched(name)
        assert list((tmp_path / name).iterdir()) == []


def test_what_is_too_large_or_cut_or_missing_leaves_nothing(web, tmp_path, request_with):
    web.files["/large.jsonl"] = b"x" * 10_000
    for name, most, lie, error in (
        ("large", 9_999, 0, LimitError),
        ("large", 9_999, -2_000, LimitError),
        ("rows", 0, 7, UnavailableError),
        ("gone", 0, 0, DataError),
    ):
        web.lie = lie
        url = f"http://{web.host}/{name}.jsonl"
        request = request_with(url, hosts=[web.host], most=most if lie >= 0 else 7_000)
        with pytest.raises(error) as caught:
            fetch(judge(url, request.sources), tmp_path / "to", request, silent)
        assert caught.value.hint
        assert list((tmp_path / "to").iterdir()) == []


def test_a_host_that_cannot_be_reached_is_told(tmp_path, request_with):
    request = request_with("http://127.0.0.1:9/x.jsonl", hosts=["127.0.0.1:9"])
    with pytest.raises(UnavailableError, match="can't be reached"):
        fetch(judge(request.dataset, request.sources), tmp_path / "to", request, silent)


def test_a_pattern_does_not_open_private_addresses(web, tmp_path, request_with):
    request = request_with(f"http://{web.host}/rows.jsonl", hosts=["127.*"])
    with pytest.raises(DataError, match="no public one"):
        fetch(judge(request.dataset, request.sources), tmp_path / "to", request, silent)
    assert web.seen == []


def test_the_connection_goes_to_the_address_that_was_judged(web, tmp_path, request_with, monkeypatch):
    port = web.server_address[1]
    asked, real = [], web_connection.socket.getaddrinfo

    def changing(host, *args, **options):
        asked.append(host)
        if host[0].isdigit():
            return real(host, *args, **options)
        return [(2, 1, 6, "", ("127.0.0.1" if len(asked) == 1 else "169.254.169.254", port))]

    monkeypatch.setattr(web_connection.socket, "getaddrinfo", changing)
    request = request_with(f"http://data.example.org:{port}/rows.jsonl", hosts=[f"data.example.org:{port}"])
    path = fetch(judge(request.dataset, request.sources), tmp_path / "to", request, silent)
    assert path.read_bytes() == ROWS
    assert asked.count("data.example.org") == 1
    assert web.seen[0][2] == f"data.example.org:{port}"


def test_a_bucket_is_read_through_the_real_s3fs(web, tmp_path, request_with, monkeypatch):
    pytest.importorskip("s3fs")
    web.files = {"/bucket/team/rows.jsonl": ROWS}
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{web.host}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    request = request_with("s3://bucket/team/rows.jsonl", hosts=["bucket"])
    path = fetch(judge(request.dataset, request.sources), tmp_path / "to", request, silent)
    assert path.read_bytes() == ROWS
    request = request_with("s3://bucket/team/gone.jsonl", hosts=["bucket"])
    with pytest.raises((DataError, UnavailableError)) as caught:
        fetch(judge(request.dataset, request.sources), tmp_path / "to", request, silent)
    assert caught.value.hint
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(("scheme", "module"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_part_names_its_command(tmp_path, request_with, monkeypatch, scheme, module):
    monkeypatch.delitem(registry._registry, scheme, raising=False)
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    request = request_with(f"{scheme}://bucket/rows.jsonl", hosts=["bucket"])
    with pytest.raises(UnavailableError, match=f"{scheme}:// needs a part") as caught:
        fetch(judge(request.dataset, request.sources), tmp_path / "to", request, silent)
    assert f"pip install 'celora[{module.removesuffix('fs')}]'" in caught.value.hint


def test_work_sees_local_files_and_they_are_gone_afterwards(web, tmp_path, request_with):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_bytes(ROWS)
    request = request_with(f"http://{web.host}/rows.jsonl", evals={"far": str(held_out)}, hosts=[web.host])
    seen = []

    def work(local, _emit):
        seen.append(local)
        with open(local.dataset, "rb") as file:  # noqa: PTH123
            assert file.read() == ROWS
        raise SettingsError("no")

    with pytest.raises(SettingsError):
        fetching(work)(request, silent)
    assert seen[0].eval_datasets == {"far": str(held_out)}
    assert [path.name for path in tmp_path.iterdir()] == ["held_out.jsonl"]


def test_work_on_local_files_is_left_alone(request_with):
    request = request_with("/data/rows.jsonl")
    assert fetching(lambda local, _emit: local == request)(request, silent)


def confined(tmp_path, request_with):
    """A request for a file of an allowed folder, and a secret outside."""
    (tmp_path / "allowed").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    rows = tmp_path / "allowed" / "rows.jsonl"
    rows.write_bytes(ROWS)
    request = request_with(str(rows))
    access = request.sources.model_copy(update={"local_roots": [str(tmp_path / "allowed")]})
    return request.model_copy(update={"sources": access}), rows


def test_a_local_file_is_judged_again_where_it_is_read(tmp_path, request_with):
    request, rows = confined(tmp_path, request_with)
    rows.unlink()
    rows.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match="outside the allowed folders"):
        fetching(lambda _local, _emit: None)(request, silent)


def test_a_file_whose_name_changes_while_it_is_read_stays_what_was_judged(tmp_path, request_with):
    request, rows = confined(tmp_path, request_with)

    def work(local, _emit):
        rows.unlink()
        rows.symlink_to(tmp_path / "secret.txt")
        place = Path(local.dataset)
        return place.name, place.read_bytes()

    assert fetching(work)(request, silent) == ("rows.jsonl", ROWS)


def test_a_fifo_in_an_allowed_folder_holds_up_nobody(tmp_path, request_with):
    request, rows = confined(tmp_path, request_with)
    rows.unlink()
    os.mkfifo(rows)
    with pytest.raises(DataError, match="is a FIFO"):
        fetching(lambda _local, _emit: None)(request, silent)
