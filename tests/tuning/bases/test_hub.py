"""The hub's HTTP, spoken by a small local server to the real huggingface_hub."""

import hashlib
import http.server
import json
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from celora.errors import BaseModelError
from celora.tuning.bases import base
from celora.tuning.bases.cache import copies, remove
from celora.tuning.protocol import HubAccess

TOKEN = "hf_right"
COMMIT = "a" * 40
LATER = "b" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Repositories by name: ``{"files": {path: bytes}, "refs": {name: commit}, "gated": bool}``."""

    daemon_threads = True

    def __init__(self):
        self.repos = {}
        self.seen = []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name, folder, *, commit=COMMIT, gated=False, **more):
        files = {path.name: path.read_bytes() for path in folder.iterdir()} | more
        self.repos[name] = {"files": files, "refs": {"main": commit, commit: commit}, "gated": gated}


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection for each answer, so that a stopped hub is really gone

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, *, body=True):
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append((self.command, path))
        self.body = body
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        repo = self.server.repos.get(found[1]) if found else None
        if repo is None:
            return self.refuse(401 if not self.authorized else 404, "RepoNotFound")
        commit = repo["refs"].get((api[3] if api else file[2]) or "main")
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        if file:
            return self.file(repo, commit, file[3])
        if api[2] == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha256(content).hexdigest()}
                for name, content in repo["files"].items()
            ]
            return self.answer(200, json.dumps(entries).encode())
        siblings = [{"rfilename": name} for name in repo["files"]]
        return self.answer(200, json.dumps({"id": found[1], "sha": commit, "siblings": siblings}).encode())

    @property
    def authorized(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def file(self, repo, commit, name):
        if repo["gated"] and not self.authorized:
            return self.refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        content = repo["files"].get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        etag = hashlib.sha256(content).hexdigest()
        return self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def refuse(self, status, code):
        self.answer(status, b"{}", {"X-Error-Code": code})

    def answer(self, status, content, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.body:
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.stop = lambda: (server.shutdown(), thread.join(), server.server_close())
    yield server
    if thread.is_alive():
        server.stop()


@pytest.fixture
def tiny(tiny_base):
    return Path(tiny_base.source)


@pytest.fixture
def events(recorder):
    return recorder()


def access(hub, **changes):
    return HubAccess(endpoint=hub.url, **changes)


def test_a_branch_is_fetched_with_progress_and_resolved_to_its_commit(hub, tiny, tiny_base, tmp_path, events):
    hub.add("org/tiny", tiny)
    found = base.resolve("org/tiny", None, tmp_path, access(hub), events)
    assert (found.kind, found.name, found.revision) == ("hub", "org/tiny", COMMIT)
    assert (found.model_type, found.context_tokens) == ("llama", 128)
    assert found.parameters == tiny_base.parameters
    progress = [fields for fields in events.of("phase") if fields["done"]]
    assert {fields["phase"] for fields in progress} == {"fetching org/tiny"}
    assert progress[-1]["done"] == progress[-1]["total"]
    folder = base.folder(found, tmp_path, access(hub), events)
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_what_is_in_the_cache_is_found_without_the_hub(hub, tiny, tmp_path, events):
    hub.add("org/tiny", tiny)
    first = base.resolve("org/tiny", "main", tmp_path, access(hub), events)
    offline = access(hub, offline=True)
    seen = len(hub.seen)
    assert base.resolve("org/tiny", "main", tmp_path, offline, events) == first
    base.folder(first, tmp_path, access(hub), events)
    assert len(hub.seen) == seen, "a commit in the cache needs no look at the hub"
    hub.stop()
    assert base.resolve("org/tiny", "main", tmp_path, access(hub), events) == first
    with pytest.raises(BaseModelError, match=r"org/other is not in the cache, and the hub .* can't be reached"):
        base.resolve("org/other", None, tmp_path, access(hub), events)
    with pytest.raises(BaseModelError, match="not in the cache, and this installation is offline"):
        base.resolve("org/other", None, tmp_path, offline, events)


def test_a_branch_that_moved_on_is_fetched_again_and_the_recorded_commit_stays_what_it_was(
    hub, tiny, make_base, tmp_path, events
):
    from transformers import LlamaConfig

    hub.add("org/tiny", tiny)
    first = base.resolve("org/tiny", None, tmp_path, access(hub), events)
    other = make_base(LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, vocab_size=96), "other")
    hub.add("org/tiny", Path(other.source), commit=LATER)
    second = base.resolve("org/tiny", None, tmp_path, access(hub), events)
    assert (first.revision, second.revision) == (COMMIT, LATER)
    assert first.parameters > second.parameters
    before = base.folder(first, tmp_path, access(hub), events)
    assert (before / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_a_download_that_was_interrupted_is_completed(hub, tiny, tmp_path, events):
    hub.add("org/tiny", tiny)
    found = base.resolve("org/tiny", None, tmp_path, access(hub), events)
    (base.folder(found, tmp_path, access(hub), events) / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="not in the cache"):
        base.folder(found, tmp_path, access(hub, offline=True), events)
    assert (base.folder(found, tmp_path, access(hub), events) / "model.safetensors").is_file()


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_a_gated_model_names_the_secret_and_how_to_set_it(  # noqa: PLR0917  (fixtures)
    hub, tiny, tmp_path, events, monkeypatch, token
):
    hub.add("org/gated", tiny, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(BaseModelError, match=r"org/gated is gated.* secret HF_TOKEN") as refusal:
        base.resolve("org/gated", None, tmp_path, access(hub), events)
    assert "celora secret set HF_TOKEN" in refusal.value.hint
    assert "hf_wrong" not in str(refusal.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert base.resolve("org/gated", None, tmp_path, access(hub), events).revision == COMMIT


def test_an_unknown_model_and_an_unknown_revision_are_told_apart(hub, tiny, tmp_path, events):
    hub.add("org/tiny", tiny)
    with pytest.raises(BaseModelError, match="has no model org/none, or it is private"):
        base.resolve("org/none", None, tmp_path, access(hub), events)
    with pytest.raises(BaseModelError, match="org/tiny has no revision 'v9'"):
        base.resolve("org/tiny", "v9", tmp_path, access(hub), events)


@pytest.mark.parametrize(
    ("leave_out", "more", "message"),
    [
        ("model.safetensors", {"pytorch_model.bin": b"pickle"}, "only pytorch_model.bin: such files can run code"),
        ("model.safetensors", {"adapter_config.json": b"{}"}, "is a LoRA adapter"),
        ("", {"modeling_evil.py": b"raise SystemExit"}, r"brings code of its own \(modeling_evil\.py\)"),
        ("", {"config.json": b'{"model_type": "llama", "kernels": {"a": "b/c"}}'}, "fetches and runs code"),
        ("", {"config.json": b'{"model_type": "llama", "auto_map": {"A": "b.C"}}'}, "auto_map"),
    ],
)
def test_what_would_run_code_is_refused_before_its_weights_are_fetched(  # noqa: PLR0917  (fixtures)
    hub, tiny, tmp_path, events, leave_out, more, message
):
    hub.add("org/evil", tiny, **more)
    hub.repos["org/evil"]["files"].pop(leave_out, None)
    with pytest.raises(BaseModelError, match=message):
        base.resolve("org/evil", None, tmp_path, access(hub), events)
    fetched = {path.rsplit("/", 1)[-1] for command, path in hub.seen if command == "GET" and "/resolve/" in path}
    assert fetched <= {"config.json", "tokenizer_config.json"}


def test_a_base_that_the_operator_listed_may_bring_code(hub, tiny, tmp_path, events):
    hub.add("org/own", tiny, **{"modeling_own.py": b"# ours"})
    found = base.resolve("org/own", None, tmp_path, access(hub, remote_code_bases=["org/*"]), events)
    assert found.revision == COMMIT


def test_only_what_a_load_needs_is_fetched(hub, tiny, tmp_path, events):
    hub.add("org/tiny", tiny, **{"pytorch_model.bin": b"pickle", "original/consolidated.safetensors": b"x"})
    found = base.resolve("org/tiny", None, tmp_path, access(hub), events)
    folder = base.folder(found, tmp_path, access(hub), events)
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny.iterdir()}


def test_the_list_of_allowed_bases_is_kept(hub, tiny, tmp_path, events):
    hub.add("org/tiny", tiny)
    with pytest.raises(BaseModelError, match=r"org/tiny is not among those .* allows: other/\*") as refusal:
        base.resolve("org/tiny", None, tmp_path, access(hub, allowed_bases=["other/*"]), events)
    assert "CELORA_ALLOWED_BASES" in refusal.value.hint
    assert hub.seen == []
    assert base.resolve("org/tiny", None, tmp_path, access(hub, allowed_bases=["org/*"]), events)


def test_a_fetched_base_is_listed_with_its_size_and_removed(hub, tiny, tmp_path, events):
    hub.add("org/tiny", tiny)
    base.resolve("org/tiny", None, tmp_path, access(hub), events)
    (found,) = copies(tmp_path)
    assert (found.name, found.form, found.revisions) == ("org/tiny", "hub", (COMMIT,))
    assert found.size_bytes == sum(path.stat().st_size for path in tiny.iterdir())
    remove(tmp_path, "org/tiny")
    assert copies(tmp_path) == []
