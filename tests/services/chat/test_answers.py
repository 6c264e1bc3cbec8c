import asyncio

import pytest
from fake_vllm import FakeVllm

from celora.errors import RequestError
from celora.services.chat import answers
from celora.services.chat.form import ChatForm
from celora.settings.settings import get_settings, load_settings
from celora.tuning.answering.messages import Done

CONTENT = [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}]


def begin(asked, tenant="team-a", **settings):
    """Begin an answer and read it to its end; return who serves it and the last event."""
    form = ChatForm(
        model=asked, messages=[{"role": "developer", "content": "be kind"}, {"role": "user", "content": CONTENT}]
    )

    async def read():
        begun = await answers.begin(form, tenant, load_settings(**settings))
        return begun.served_by, [event async for event in begun.events][-1]

    return asyncio.run(read())


def test_a_trained_model_is_answered_by_the_server_of_its_base_under_its_jobs_name(add_model, home):
    model = add_model()
    with FakeVllm("owner/base") as server:
        served_by, done = begin(model, serving_url=server.url)
        assert (served_by, done.text) == ("serving server", "job-team-a hello there")
        assert isinstance(done, Done)
        (body,) = server.asked
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert (body["temperature"], body["max_tokens"]) == (1.0, 256)
        assert server.loads == [("job-team-a", str(home / "artifacts" / "job-team-a" / "adapter"))]


@pytest.mark.parametrize("settings", [{"answer_bytes": 0}, {"answer_bytes": 2 * 10**6 - 1}])
def test_a_trained_model_that_nothing_may_serve_is_refused(add_model, settings):
    model = add_model()
    with FakeVllm("another/base") as server, pytest.raises(RequestError) as caught:
        begin(model, serving_url=server.url, **settings)
    assert (caught.value.status, caught.value.reason) == (503, "model_not_served")
    assert server.loads == []


def test_a_model_of_another_tenant_is_asked_of_nobody(add_model):
    model = add_model("team-b")
    with FakeVllm("owner/base") as server, pytest.raises(RequestError, match="does not exist"):
        begin(model, serving_url=server.url)
    assert (server.loads, server.asked) == ([], [])


@pytest.mark.parametrize(("share", "owner"), [("tenant", "team-a"), ("all", "")])
def test_the_host_learns_whose_adapters_may_be_together(add_model, share, owner):
    place = answers._place_of(add_model(), "team-a", get_settings())
    form = ChatForm(model="m", messages=[{"role": "user", "content": "hi"}], seed=3, stop="x")
    request = answers._request(place, form, "team-a", load_settings(share=share))
    assert (request.owner, request.tenant, request.adapter) == (owner, "team-a", "job-team-a")
    assert (request.seed, request.stop, request.quantization, request.base.name) == (3, ["x"], "nf4", "owner/base")
