import base64
import json

import pytest
from worker_alone import message

from celora.workers.lifecycle.control_schema import (
    ALLOWED,
    MalformedCommandError,
    RevokeArguments,
    check_control_message,
)


def broadcast(**changes):
    command = {"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None, **changes}
    body = base64.b64encode(json.dumps(command).encode()).decode()
    return {**message(), "headers": {"clock": 3, "expires": 0}, "body": body}


def test_a_question_with_a_reply_passes():
    reply = {"exchange": "reply.celery.pidbox", "routing_key": "abc"}
    check_control_message(broadcast(ticket="t", reply_to=reply, destination=["a@b"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"reply_to": {"exchange": "celora", "routing_key": "celora"}},
        {"pattern": "(a+)+$", "matcher": "pcre"},
        {"arguments": [1]},
        {"method": 5},
    ],
    ids=str,
)
def test_what_would_harm_a_worker_is_refused(changes):
    with pytest.raises(MalformedCommandError):
        check_control_message(broadcast(**changes))


def test_no_command_that_changes_a_worker_is_allowed():
    changing = {"time_limit", "rate_limit", "pool_grow", "add_consumer", "cancel_consumer", "shutdown", "terminate"}
    assert not changing & set(ALLOWED)


@pytest.mark.parametrize("terminate", [True, "True", "true"])
def test_a_revoke_of_flowers_page_is_taken_though_it_says_true_as_text(terminate):
    assert RevokeArguments.model_validate({"task_id": "a", "terminate": terminate, "signal": "SIGTERM"}).terminate
