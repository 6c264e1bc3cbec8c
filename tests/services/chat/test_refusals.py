import pytest

from celora.services.chat.refusals import not_served, refusal_of, serve_command
from celora.services.chat.served_models import ServedModel, find_model
from celora.services.tenants.words import failure_of
from celora.settings.settings import get_settings
from celora.tuning.answering.messages import Refused

BARE = ServedModel(asked="gpt-4o-mini", base_name="owner/base")


def test_the_command_serves_the_base_with_room_for_the_adapter(add_model):
    tuned = find_model("team-a", add_model(), get_settings())
    assert serve_command(BARE) == "vllm serve owner/base"
    command = serve_command(tuned)
    assert command == (
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve owner/base --revision c0ffee --enable-lora --max-lora-rank 16"
    )
    error = not_served(tuned)
    assert (error.status, error.reason) == (503, "model_not_served")
    assert command in str(failure_of(error))
    assert "serving_url" in str(failure_of(error))


@pytest.mark.parametrize(
    ("code", "status", "reason", "param"),
    [
        ("busy", 503, "overloaded", None),
        ("context_length_exceeded", 400, "context_length_exceeded", "messages"),
        ("bad_prompt", 400, "invalid_value", "messages"),
        ("too_large", 503, "model_not_served", "model"),
        ("base_model", 503, "model_not_served", "model"),
        ("storage", 500, "internal", None),
    ],
)
def test_each_refusal_has_the_status_that_clients_act_on(code, status, reason, param):
    error = refusal_of(Refused(code=code, message="/srv/secret"), BARE)
    assert (error.status, error.reason, error.param) == (status, reason, param)
    assert status == 400 or "/srv" not in error.message
    assert ("retry-after" in error.headers) == (code == "busy")
    assert ("bases add owner/base" in error.message) == (code == "base_model")
