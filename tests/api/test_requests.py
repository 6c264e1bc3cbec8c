"""Request ids: one for each answer, the answer of a fault included."""

from celora.api import health


def test_every_answer_has_an_id_of_its_own(client):
    ids = {client.get(path).headers["x-request-id"] for path in ("/healthz", "/readyz", "/v1/nothing")}
    assert len(ids) == 3


def test_a_fault_is_an_answer_whose_id_is_in_the_log(client, monkeypatch, caplog):
    def broken():
        raise RuntimeError("the inner words")

    monkeypatch.setattr(health, "get_database", broken)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "inner words" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text
