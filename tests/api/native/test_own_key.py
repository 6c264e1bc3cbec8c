"""``/v1/celora/key``: a key rotates itself, and no other."""

from celora.services.tenants import keys


def test_a_key_rotates_itself_and_no_other(client, new_client):
    made = keys.create_key("team-a", scopes=["read"])
    mine = new_client(headers={"authorization": f"Bearer {made.key}"})
    answer = mine.post("/v1/celora/key/rotate").json()
    assert (answer["tenant"], answer["scopes"]) == ("team-a", ["read"])
    assert mine.get("/v1/files").status_code == 401
    again = new_client(headers={"authorization": f"Bearer {answer['key']}"})
    kept = again.post("/v1/celora/key/rotate", json={"keep_s": 60}).json()
    assert again.get("/v1/files").status_code == 200, "the old key stays valid for the time"
    assert kept["key"] != answer["key"]


def test_without_a_key_there_is_none_to_rotate(client):
    answer = client.post("/v1/celora/key/rotate")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "key_not_found")
