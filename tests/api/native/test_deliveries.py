"""The log of deliveries over HTTP: a tenant's own, with each try, and a delivery made again."""

from records import SPEC, Verbs

from celora.models.spec import parse_spec

FORM = {"name": "ci", "url": "https://hooks.example.org/", "event_types": ["fine_tuning.job.cancelled"]}


def test_a_delivery_is_listed_and_made_again(client, record):
    made = client.post("/v1/webhook_endpoints", json=FORM).json()
    Verbs(record).submit(job_id="a", spec=parse_spec({**SPEC, "tenant": "default"}))
    Verbs(record).request_cancel("a")
    (line,) = client.get("/v1/celora/deliveries").json()["data"]
    assert (line["receiver"], line["notice"], line["subject"], line["tries"]) == (made["id"], "cancelled", "a", [])
    assert "tenant" not in line
    assert client.get("/v1/celora/deliveries", params={"receiver": made["id"]}).json()["data"] == [line]
    assert client.get("/v1/celora/deliveries", params={"receiver": "nobody"}).status_code == 404
    again = client.post(f"/v1/celora/deliveries/{line['id']}/redeliver")
    assert (again.status_code, again.json()["outcome"]) == (200, None)
    assert client.post("/v1/celora/deliveries/99/redeliver").status_code == 404
