"""Who asks, while the record has no key: this machine, and nobody through a browser or a proxy."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from celora.api.answers import install
from celora.api.principal import Caller, Writer
from celora.services.tenants import keys


@pytest.fixture
def ask(record):
    app = FastAPI()
    install(app)

    @app.get("/who")
    def who(caller: Caller) -> dict[str, object]:
        return {"tenant": caller.tenant, "scopes": sorted(caller.scopes)}

    @app.post("/change")
    def change(caller: Writer) -> dict[str, str]:
        return {"tenant": caller.tenant}

    def get(address="127.0.0.1", method="GET", path="/who", headers=None, **named):
        client = TestClient(app, base_url="http://127.0.0.1:8320", client=(address, 4000))
        given = {name.replace("_", "-"): value for name, value in named.items()}
        return client.request(method, path, headers=headers or given)

    return get


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("127.0.0.1", {}),
        ("::1", {"host": "[::1]:8320"}),
        ("127.0.0.1", {"host": "localhost:8320"}),
        ("127.0.0.1", {"origin": "http://127.0.0.1:8320", "sec_fetch_site": "same-origin"}),
    ],
)
def test_this_machine_is_the_tenant_default(ask, address, headers):
    assert ask(address, **headers).json() == {"tenant": "default", "scopes": ["admin", "read", "submit"]}


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("192.168.1.7", {}),
        ("127.0.0.1", {"host": "celora.example:8320"}),
        ("127.0.0.1", {"host": "127.0.0.1.evil.example"}),
        ("127.0.0.1", {"host": ""}),
        ("127.0.0.1", {"origin": "https://evil.example"}),
        ("127.0.0.1", {"origin": "null"}),
        ("127.0.0.1", {"origin": "http://127.0.0.1:3000"}),
        ("127.0.0.1", {"sec_fetch_site": "cross-site"}),
        ("127.0.0.1", {"sec_fetch_site": "same-site"}),
        ("127.0.0.1", {"x_forwarded_for": "10.0.0.1"}),
        ("127.0.0.1", {"x_forwarded_proto": "https"}),
        ("127.0.0.1", {"forwarded": "for=10.0.0.1"}),
    ],
)
def test_whoever_comes_from_elsewhere_is_refused(ask, address, headers):
    answer = ask(address, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "loopback_only")


def test_once_a_key_exists_only_keys_count(ask):
    key = keys.create_key("team-a", scopes=["read"]).key
    for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": f"Basic {key}"}):
        refused = ask(**headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert ask("192.168.1.7", host="celora.example", authorization=f"Bearer {key}").json()["tenant"] == "team-a"


def test_a_key_that_stands_twice_is_refused(ask):
    key = keys.create_key("team-a", scopes=["read"]).key
    for other in (key, "wrong"):
        given = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {other}")]
        refused = ask(headers=given)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert ask(authorization=f"bearer {key}").status_code == 200


def test_a_key_does_what_its_scopes_say_until_it_is_revoked(ask):
    made = keys.create_key("team-a", scopes=["read"])
    refused = ask(method="POST", path="/change", authorization=f"Bearer {made.key}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    keys.revoke_key(made.id)
    assert ask(authorization=f"Bearer {made.key}").status_code == 401


def test_a_valid_key_costs_one_look_into_the_record(ask, monkeypatch):
    key = keys.create_key("team-a").key
    asked = []
    monkeypatch.setattr(keys, "exist", lambda: asked.append(True) or True)
    assert ask(authorization=f"Bearer {key}").json()["tenant"] == "team-a"
    assert asked == []
    assert ask(authorization="Bearer nonsense").status_code == 401
    assert asked == [True]
