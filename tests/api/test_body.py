"""The body of a request: long, slow, compressed or loose ones are refused, each in its own words."""

import asyncio

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict
from starlette.testclient import TestClient

from celora.api import body
from celora.api.answers import install
from celora.errors import RequestError


class Named(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


@pytest.fixture
def post():
    app = FastAPI()
    install(app)

    @app.post("/read")
    async def read(request: Request) -> dict[str, str]:
        return {"name": (await body.read_model(request, Named)).name}

    client = TestClient(app)
    return lambda content, headers=None, **named: client.post("/read", content=content, headers=headers or named)


def test_a_good_body_is_read(post):
    assert post(b'{"name": "ada"}').json() == {"name": "ada"}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"name": ', 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"name": NaN}', 400, "invalid_json"),
        (b'{"name": "a", "name": "b"}', 400, "invalid_json"),
        (b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_json"),
        (b'{"name": "\\u0000"}', 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b'{"name": 3}', 400, "invalid_value"),
        (b'{"name": "a", "nmae": "b"}', 400, "unknown_parameter"),
        (b"", 400, "missing_required_parameter"),
        (b" " * (body.JSON_BYTES + 1), 413, "request_too_large"),
    ],
)
def test_each_fault_has_its_code(post, content, status, code):
    answer = post(content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_length_is_judged_before_the_body_is_read(post):
    def never():
        yield b"{"
        raise AssertionError("the body was read")

    answer = post(never(), **{"content-length": str(10 * 2**30)})
    assert answer.status_code == 413
    assert post(b"{}", **{"content-length": "ten"}).status_code == 400


def test_a_compressed_body_is_not_unpacked(post):
    for codings in (["gzip"], ["identity", "gzip"], [""]):
        given = [("content-encoding", coding) for coding in codings]
        assert post(b"{}", headers=given).json()["error"]["code"] == "unsupported_encoding"


def test_a_body_without_a_length_is_cut_at_the_limit(post):
    endless = (b" " * 65536 for _ in range(1000))
    assert post(endless).status_code == 413


def test_a_body_that_stops_arriving_is_given_up(monkeypatch):
    monkeypatch.setattr(body, "IDLE_S", 0.05)

    async def receive():
        await asyncio.Event().wait()

    async def read():
        request = Request({"type": "http", "method": "POST", "headers": [], "path": "/"}, receive)
        return [part async for part in body.chunks(request, 10)]

    with pytest.raises(RequestError) as caught:
        asyncio.run(read())
    assert (caught.value.status, caught.value.reason) == (408, "request_timeout")
