import pytest
from fake_vllm import FakeVllm

from celora.errors import RequestError
from celora.services.chat.serving_server import ServingServer, object_of


@pytest.fixture
def server():
    with FakeVllm("owner/base", key="k") as server:
        yield server


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_the_url_may_end_with_v1(server, end):
    asked = ServingServer(server.url + end, "k")
    assert asked.served_base({"other", "owner/base"}) == "owner/base"
    assert asked.served_base({"other"}) is None


def test_an_adapter_is_no_base(server, tmp_path):
    asked = ServingServer(server.url, "k")
    asked.load("job-1", tmp_path)
    assert asked.served_base({"job-1"}) is None


def test_an_adapter_is_loaded_unless_it_is_listed(server, tmp_path):
    asked = ServingServer(server.url, "k")
    for _ in range(2):
        asked.load("job-1", tmp_path)
    assert server.loads == [("job-1", str(tmp_path))]
    with pytest.raises(RequestError, match="does not answer"):
        asked.load("job-2", tmp_path / "away")


def test_an_adapter_is_unloaded_and_one_that_stays_is_an_error(server, tmp_path):
    asked = ServingServer(server.url, "k")
    asked.load("job-1", tmp_path)
    assert asked.adapters() == ["job-1"]
    asked.unload("job-1")
    asked.unload("job-1")  # another process did the same
    assert asked.adapters() == []
    asked.load("job-1", tmp_path)
    server.keeps_adapters = True
    with pytest.raises(RequestError, match="does not answer"):
        asked.unload("job-1")


def test_a_server_that_is_away_or_wants_another_key_does_not_answer(server):
    for asked in (ServingServer(server.url, "another"), ServingServer("http://127.0.0.1:1")):
        with pytest.raises(RequestError) as caught:
            asked.models()
        assert (caught.value.status, caught.value.reason) == (503, "unavailable")


@pytest.mark.parametrize("text", ["", "[]", "no", "1", '{"a": '])
def test_what_is_no_object_is_an_empty_one(text):
    assert object_of(text) == {}
    assert object_of('{"a": 1}') == {"a": 1}
