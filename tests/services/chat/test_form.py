import pytest
from pydantic import ValidationError

from celora.errors import RequestError
from celora.services.chat.form import DEFAULT_TOKENS, UNSUPPORTED, ChatForm, supported

SAID = [{"role": "user", "content": "hi"}]


def read(**fields):
    return ChatForm.model_validate(supported({"model": "m", "messages": SAID, **fields}))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"messages": [*SAID, {"role": "tool", "content": "4"}]}, "messages.1.role"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
    ],
)  # fmt: skip
def test_a_parameter_that_nothing_follows_is_refused_by_its_place(fields, param):
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert (caught.value.reason, caught.value.param, caught.value.status) == ("unsupported_parameter", param, 400)


def test_values_that_ask_for_nothing_are_taken():
    harmless = {name: values[-1] for name, values in UNSUPPORTED.items() if values}
    form = read(**dict.fromkeys(UNSUPPORTED), user="ada", metadata={"a": "b"})
    assert form == read(**harmless) == read()


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"model": ""}, ("model",)),
        ({"messages": []}, ("messages",)),
        ({"messages": [{"role": "king", "content": "hi"}]}, ("messages", 0, "role")),
        ({"messages": [{"role": "user"}]}, ("messages", 0, "content")),
        ({"messages": [{"role": "user", "content": "hi", "name": "ada"}]}, ("messages", 0, "name")),
        ({"temperature": 2.1}, ("temperature",)),
        ({"temperature": "1"}, ("temperature",)),
        ({"top_p": -0.1}, ("top_p",)),
        ({"max_tokens": 0}, ("max_tokens",)),
        ({"stop": ["a"] * 5}, ("stop",)),
        ({"temprature": 1}, ("temprature",)),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_its_place(fields, place):
    with pytest.raises(ValidationError) as caught:
        read(**fields)
    assert caught.value.errors()[0]["loc"][: len(place)] == place


@pytest.mark.parametrize(
    ("fields", "tokens", "heat", "stops"),
    [
        ({}, DEFAULT_TOKENS, 1.0, []),
        ({"max_tokens": 5, "temperature": 0, "stop": "x"}, 5, 0.0, ["x"]),
        ({"max_tokens": 5, "max_completion_tokens": 7, "temperature": 0.001, "stop": ["x", "y"]}, 7, 0.0, ["x", "y"]),
        ({"max_tokens": None, "temperature": 0.5, "stop": None}, DEFAULT_TOKENS, 0.5, []),
    ],
)  # fmt: skip
def test_defaults_are_those_of_openai_and_the_length_that_of_generate(fields, tokens, heat, stops):
    form = read(**fields)
    assert (form.most_tokens, form.heat, form.stops) == (tokens, heat, stops)


def test_an_answer_may_be_sent_back_as_the_client_read_it():
    back = {"role": "assistant", "content": "yes", "refusal": None, "annotations": None, "audio": None,
            "function_call": None, "tool_calls": None}  # fmt: skip
    parts = [{"type": "text", "text": "and "}, {"type": "text", "text": "you?"}]
    form = read(messages=[*SAID, back, {"role": "user", "content": parts}])
    assert [message.text for message in form.messages] == ["hi", "yes", "and you?"]


def test_options_of_a_stream_need_a_stream():
    with pytest.raises(RequestError, match="needs stream"):
        read(stream_options={"include_usage": True})
    assert read(stream=True, stream_options={"include_usage": True}).wants_usage
    assert not read(stream=True, stream_options=None).wants_usage
