"""Chats over a real socket with real processes: the API, its answer host, a tiny model, and the official client."""

import http.client
import json
import shutil
import subprocess
import sys
import threading
import warnings
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
from client_environment import install, run
from waiting import until

from celora.models.openai.model_ids import checkpoint_id
from celora.models.scope.scope import Scope
from celora.models.states import Stage, Status
from celora.models.tables import Adapter, Checkpoint, Job, Tenant
from celora.settings.settings import get_settings
from celora.storage.manifest import write_manifest
from celora.storage.unix_socket import listen
from celora.tuning.answering.host import AnswerHost
from celora.tuning.answering.messages import Started, Words
from celora.tuning.protocol import GenerateRequest, HubAccess
from celora.workers.node.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the client is installed first
HUB = HubAccess(offline=True)
MODEL = "ft:tiny:default:bot:tail"
QUESTION = "the colour of item number 7"
SETTINGS = {"temperature": 0, "max_tokens": 24}


@contextmanager
def served():
    """The API of this home as a process; yields its port and the process."""
    port = free_port()
    command = [sys.executable, "-m", "celora.cli", "api", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until(lambda: _is_ready(port, process))
        yield port, process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _is_ready(port, process):
    assert process.poll() is None, process.stdout.read().decode()
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
            return answer.status == 200
    except URLError:
        return False


@pytest.fixture
def installation(record, base, monkeypatch):
    """A record without a broker, in which the tiny base is allowed and called ``tiny``."""
    monkeypatch.setenv("CELORA_MODEL_ALIASES", json.dumps({"tiny": str(base)}))
    monkeypatch.setenv("CELORA_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    get_settings.cache_clear()
    return record


@pytest.fixture
def expected(installation, base):
    """A trained model and its checkpoint in the record; and the words of ``celora generate`` with each, by model."""
    from celora.tuning.bases.base import resolve
    from celora.tuning.evaluation.generate import generate

    settings = get_settings()
    resolved = resolve(str(base), None, settings.cache, HUB, lambda *_, **__: None)
    folders = [write_adapter(settings.home / "artifacts" / "job" / name, resolved, seed) for seed, name in
               enumerate(("checkpoint", "adapter"))]  # fmt: skip
    add_rows(installation, resolved, [f"{settings.artifacts}/job/{folder.name}" for folder in folders])

    def say(folder):
        request = GenerateRequest(
            job="job", attempt=1, cache_dir=str(settings.cache), hub=HUB, threads=1, base=resolved, prompts=[QUESTION],
            adapter_dir=folder and str(folder), max_new_tokens=SETTINGS["max_tokens"],
        )  # fmt: skip
        return generate(request, lambda *_, **__: None).answers[0]

    return {"tiny": say(None), MODEL: say(folders[1]), checkpoint_id(MODEL, 3): say(folders[0])}


def write_adapter(folder, resolved, seed):
    """Write a committed adapter of random weights; the published one has a tokenizer beside it."""
    import torch
    from peft import LoraConfig, get_peft_model

    from celora.tuning.bases.base import load_model

    settings = get_settings()
    model, _ = load_model(resolved, settings.cache, HUB, quantization="nf4", compute_dtype="float32", device="cpu",
                          emit=lambda *_, **__: None)  # fmt: skip
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.5)
    tuned.save_pretrained(str(folder))
    if folder.name == "adapter":
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(Path(resolved.source) / name, folder)
    write_manifest(folder)
    return folder


def add_rows(record, resolved, uris):
    at, tenant = datetime(2026, 11, 30, tzinfo=UTC), "default"
    spec = {"base_model": resolved.name, "dataset": "rows", "tenant": tenant, "rank": 4}
    with record.transaction(Scope.everything) as session:
        session.merge(Tenant(name=tenant, created_at=at))
        session.flush()
        session.add(Job(id="job", tenant=tenant, created_at=at, status=Status.COMPLETED, stage=Stage.PUBLISH, gpu="cpu",
                        updated_at=at, spec=spec, warnings=[], base=resolved.model_dump(mode="json"),
                        adapter_uri=uris[1], resolved={"quantization": "nf4"}))  # fmt: skip
        session.flush()
        session.add(Adapter(id="job", tenant=tenant, created_at=at, name="bot", model_id=MODEL, uri=uris[1], rank=4,
                            base_name=resolved.name, base_revision=resolved.revision))  # fmt: skip
        session.add(Checkpoint(job_id="job", attempt=1, step=3, uri=uris[0], size_bytes=1, manifest_sha256="0" * 64,
                               created_at=at))  # fmt: skip


def post(port, **fields):
    """Send a chat; return the connection and its answer, whose status was read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
    body = {"messages": [{"role": "user", "content": QUESTION}], **SETTINGS, **fields}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    return connection, connection.getresponse()


def words(port, model):
    connection, answer = post(port, model=model)
    with closing(connection):
        found = json.loads(answer.read())
    assert answer.status == 200, found
    return found["choices"][0]["message"]["content"]


def hosts(process):
    """The answer hosts that the API has started and that run; one that was killed is a zombie for a while."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [
        one for one in children
        if one.status() != psutil.STATUS_ZOMBIE and "celora.tuning.answering" in one.cmdline()
    ]  # fmt: skip


def test_a_chat_says_what_generate_says_whoever_asks_at_the_same_time(expected):
    python = install("openai==3.57.0")
    assert len(set(expected.values())) == 3
    with served() as (port, process):
        found = run(python, f"http://127.0.0.1:{port}/v1", "none-yet", "chats", "strict")
        assert found == {
            "whole": list(expected.values()), "streamed": list(expected.values()), "usage": [True] * 3,
            "together": True, "another": ["NotFoundError", "model_not_found", "model", True, True],
            "tools": ["BadRequestError", "unsupported_parameter", "tools", True, True],
            "long": ["BadRequestError", "context_length_exceeded", "messages", True, True],
        }  # fmt: skip

        (host,) = hosts(process)
        host.kill()
        assert words(port, MODEL) == expected[MODEL]
        (another,) = hosts(process)
    assert another.pid != host.pid
    psutil.wait_procs([another], timeout=60)
    assert not another.is_running()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_its_answer(installation, stream):
    began, stopped = threading.Event(), threading.Event()

    def model(_request, client):
        client.send(Started(prompt_tokens=1))
        client.send(Words(text="some words"))
        began.set()
        if client.gone.wait(200):
            stopped.set()

    path = get_settings().home / "run" / "answer.sock"
    path.parent.mkdir(exist_ok=True)
    with listen(path) as listener, served() as (port, _):
        host = AnswerHost(listener, model, 200.0)
        threading.Thread(target=host.serve, daemon=True).start()
        if stream:
            connection, answer = post(port, model="tiny", stream=True)
            assert answer.readline().startswith(b"data: ")
            answer.close()
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
            body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        assert began.wait(200)
        connection.close()
        assert stopped.wait(200)
        host.close()
