"""The route over a socket of the answer host, behind which a made-up model answers."""

import json
import threading
from contextlib import ExitStack, contextmanager

import pytest
from fake_vllm import FakeVllm

from celora.services.chat import answers, host_process
from celora.settings.settings import get_settings
from celora.storage.unix_socket import listen
from celora.tuning.answering.host import AnswerHost
from celora.tuning.answering.messages import Done, Refused, Started, Words

BASE = "smollm2-135m-instruct"
PATH = "/v1/chat/completions"


class Model:
    """Says the last message backwards, word by word; some messages have another effect."""

    def __init__(self):
        self.requests, self.saw_end = [], threading.Event()

    def __call__(self, request, client):
        self.requests.append(request)
        said = request.messages[-1].content
        if said.startswith("refuse "):
            client.send(Refused(code=said.split()[1], message="because"))
            return
        client.send(Started(prompt_tokens=3))
        words = said.split()[::-1]
        for number, word in enumerate(words):
            client.send(Words(text=word if not number else f" {word}"))
        if said == "off break":
            client.close()
            return
        if said == "forever":
            self.saw_end.set() if client.gone.wait(200) else None
            return
        client.send(Done(text=" ".join(words), finish_reason="stop", prompt_tokens=3, completion_tokens=len(words)))


@contextmanager
def host_of(home):
    path = home / "run" / "answer.sock"
    path.parent.mkdir(exist_ok=True)
    model = Model()
    with listen(path) as listener:
        host = AnswerHost(listener, model, 200.0)
        thread = threading.Thread(target=host.serve, daemon=True)
        thread.start()
        yield model
        host.close()
        thread.join(200)


@pytest.fixture
def model(record, home):
    with host_of(home) as model:
        yield model


@pytest.fixture
def ask(client):
    def send(said="one two", **fields):
        return client.post(PATH, json={"model": BASE, "messages": [{"role": "user", "content": said}], **fields})

    return send


def chunks(answer):
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [json.loads(line) if line != "[DONE]" else line for line in lines]


def test_a_whole_answer_has_the_form_of_openai_and_says_who_served_it(model, ask):
    answer = ask(temperature=0, max_tokens=7, stop="x", seed=3).json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 0
    assert answer == {
        "object": "chat.completion", "model": BASE,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "two one", "refusal": None},
                     "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "celora": {"served_by": "answer host", "note": answer["celora"]["note"]},
    }  # fmt: skip
    assert "no serving engine" in answer["celora"]["note"]
    (request,) = model.requests
    assert (request.temperature, request.max_new_tokens, request.stop, request.seed) == (0, 7, ["x"], 3)
    assert (request.base_name, request.adapter, request.owner, request.tenant) == (BASE, None, "default", "default")


def test_a_stream_is_the_same_words_in_parts(model, ask):
    first, one, two, last, usage, done = chunks(ask(stream=True, stream_options={"include_usage": True}))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [part["choices"][0]["delta"] for part in (one, two, last)] == [{"content": "two"}, {"content": " one"}, {}]
    assert [part["choices"][0]["finish_reason"] for part in (one, last)] == [None, "stop"]
    assert (usage["choices"], usage["usage"]["total_tokens"], one["usage"]) == ([], 5, None)
    assert {part["id"] for part in (first, one, two, last, usage)} == {first["id"]}
    assert done == "[DONE]"
    assert "usage" not in chunks(ask(stream=True))[1]


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [("busy", 503, "overloaded"), ("context_length_exceeded", 400, "context_length_exceeded"),
     ("too_large", 503, "model_not_served"), ("storage", 500, "internal")],
)  # fmt: skip
def test_a_refusal_comes_with_its_status_before_any_word(model, ask, code, status, reason):
    for stream in (False, True):
        answer = ask(f"refuse {code}", stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, reason)


def test_an_answer_that_breaks_off_is_no_answer(model, ask):
    assert ask("off break").status_code == 503
    *_, last = chunks(ask("off break", stream=True))
    assert last["error"]["code"] == "internal"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "nothing"}, (404, "model_not_found", "model")),
        ({"model": "ft:base:team-b:s:tail"}, (404, "model_not_found", "model")),
        ({"tools": [{}]}, (400, "unsupported_parameter", "tools")),
        ({"messages": [{"role": "king", "content": ""}]}, (400, "invalid_value", "messages.0.role")),
        ({"messages": [{"role": "user"}]}, (400, "missing_required_parameter", "messages.0.content")),
        ({"temperatur": 1}, (400, "unknown_parameter", "temperatur")),
    ],
)  # fmt: skip
def test_a_request_that_is_wrong_never_reaches_the_host(model, ask, fields, told):
    answer = ask(**fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == told
    assert model.requests == []


def test_a_million_tokens_reach_the_host_as_one_message(model, ask):
    assert ask("refuse context_length_exceeded " + "word " * 10**6).status_code == 400
    assert ask("word " * 2 * 10**6).status_code == 413


def test_a_base_that_nothing_serves_is_refused_with_the_command_that_serves_it(client, ask, monkeypatch):
    monkeypatch.setenv("CELORA_ANSWER_BYTES", "0")
    get_settings.cache_clear()
    answer = ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_served")
    assert f"vllm serve {BASE}" in answer.json()["error"]["message"]


def test_without_the_training_libraries_nothing_answers(client, ask, monkeypatch):
    monkeypatch.setattr(answers.host_process, "can_answer", lambda: False)
    assert ask().json()["error"]["code"] == "model_not_served"


def test_a_serving_server_goes_first_for_the_bases_that_it_has(model, ask, monkeypatch):
    with FakeVllm(BASE) as server:
        monkeypatch.setenv("CELORA_SERVING_URL", server.url)
        get_settings.cache_clear()
        answer = ask("one", temperature=0).json()
        assert answer["choices"][0]["message"]["content"] == f"{BASE} one"
        assert answer["celora"] == {"served_by": "serving server", "note": None}
        assert [body["temperature"] for body in server.asked] == [0.0]
        server.base = "another/base"
        assert ask("one").json()["celora"]["served_by"] == "answer host"
    assert ask("one").json()["error"]["code"] == "unavailable"


def test_a_key_that_may_only_read_may_not_chat(model, new_client):
    from celora.services.tenants import keys

    key = keys.create_key("team-a", scopes=["read"]).key
    reader = new_client(headers={"authorization": f"Bearer {key}"})
    assert reader.post(PATH, json={"model": BASE, "messages": [{"role": "user", "content": "hi"}]}).status_code == 403


def test_a_host_is_started_where_none_listens(client, ask, home, monkeypatch):
    with ExitStack() as hosts:
        monkeypatch.setattr(host_process, "start", lambda _: bool(hosts.enter_context(host_of(home))))
        assert ask().json()["choices"][0]["message"]["content"] == "two one"
