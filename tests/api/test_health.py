"""The probes: serving and ready are two things."""

from celora.models.database import get_database


def test_a_server_with_a_record_is_ready(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_without_the_record_it_serves_and_says_when_to_come_again(client, home):
    get_database().dispose()
    (home / "celora.db").rename(home / "away.db")
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "unavailable"
