"""The application as a whole: what its description says, and what it leaves out."""


def test_no_page_loads_scripts_from_elsewhere(client):
    assert client.get("/docs").status_code == 404
    assert client.get("/redoc").status_code == 404
    assert client.get("/openapi.json").json()["info"]["title"] == "celora"


def test_a_slash_at_the_end_is_no_redirect(client):
    assert client.get("/healthz/", follow_redirects=False).status_code == 404
