"""Words the refusals of a chat as its tenant reads them."""

from ...errors import RequestError
from ...tuning.adapters.usage import VLLM_RANKS
from ...tuning.answering.messages import Refused
from .served_models import ServedModel

BUSY_S = 5
"""Seconds after which a client may try again when the line is full; official clients do so by themselves."""
NOT_HERE = ("too_large", "bad_base")
"""Refusals of the answer host that another server could serve."""


def unreachable() -> RequestError:
    """Make the refusal for a server or host that does not answer."""
    return RequestError(
        "the server of this model does not answer at the moment; try again later.",
        reason="unavailable",
        status=503,
        headers={"retry-after": str(BUSY_S)},
    )


def not_served(model: ServedModel, more: str = "") -> RequestError:
    """Make the refusal of a model that nothing here serves, with the command that serves it."""
    return RequestError(
        f"the model {model.asked} is not served here. The operator serves it with `{serve_command(model)}` and names "
        f"that server in the setting serving_url.{more}",
        reason="model_not_served",
        param="model",
        status=503,
        headers={"x-should-retry": "false"},
    )


def serve_command(model: ServedModel) -> str:
    """Return the command of vLLM that serves a base, and lets celora load the adapter into it.

    Example:
        ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve our/base --enable-lora --max-lora-rank 16``
    """
    adapter = model.adapter
    if adapter is None:
        return f"vllm serve {model.base_name}"
    revision = f" --revision {adapter.base.revision}" if adapter.base.kind == "hub" else ""
    rank = next((one for one in VLLM_RANKS if one >= adapter.rank), VLLM_RANKS[-1])
    ranks = f"--enable-lora --max-lora-rank {rank}"
    return f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve {adapter.base.name}{revision} {ranks}"


def _base(model: ServedModel) -> str:
    return model.adapter.base.name if model.adapter else model.base_name


def refusal_of(refused: Refused, model: ServedModel) -> RequestError:
    """Make the error of a refusal by the answer host or by a server."""
    match refused.code:
        case "busy":
            return RequestError(
                "too many requests wait for an answer; try again.",
                reason="overloaded",
                status=503,
                headers={"retry-after": str(BUSY_S)},
            )
        case "context_length_exceeded":
            return RequestError(refused.message, reason=refused.code, param="messages")
        case "bad_prompt":
            return RequestError(refused.message, param="messages")
        case "base_model":
            return not_served(
                model, f" A small base also answers once it is in the cache of this API: bases add {_base(model)}."
            )
        case code if code in NOT_HERE:
            return not_served(model)
        case _:
            return RequestError(
                "the answer failed; the operator finds the cause in the log.", reason="internal", status=500
            )
