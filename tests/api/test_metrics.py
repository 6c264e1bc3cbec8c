"""``/metrics``: requests by the pattern of their route, for operators alone."""

from celora.services.tenants import keys


def test_requests_are_counted_by_route_and_status(client):
    client.get("/v1/files/file-of-somebody")
    client.get("/nowhere/secret")
    found = client.get("/metrics").text
    assert 'celora_http_requests_total{method="GET",route="/v1/files/{file_id}",status="404"} 1.0' in found
    assert 'celora_http_requests_total{method="GET",route="none",status="404"} 1.0' in found
    assert 'celora_http_request_seconds_count{method="GET",route="/v1/files/{file_id}"} 1.0' in found
    assert "celora_http_requests_open 1.0" in found
    assert "somebody" not in found
    assert "secret" not in found


def test_only_an_operators_key_reads_them(client):
    tenants, operators = (keys.create_key("team-a", scopes=scopes).key for scopes in (["read", "submit"], ["admin"]))
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"authorization": f"Bearer {tenants}"}).status_code == 403
    assert client.get("/metrics", headers={"authorization": f"Bearer {operators}"}).status_code == 200
