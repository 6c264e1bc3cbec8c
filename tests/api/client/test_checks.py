"""A check of a server is waited for, and a fault that is not one of the data is raised as here."""

import httpx
import pytest

from celora.api.client import checks
from celora.api.client.connection import Connection
from celora.api.client.server import Server
from celora.errors import BaseModelError, NotFoundError, UnavailableError

OPEN = {"id": "check-1", "status": "waiting", "receipt": None, "error": None, "failure": None}


@pytest.fixture
def served():
    """A connection to a server that gives some answers one after the other; the pauses between the questions."""
    pauses = []

    def make(*answers):
        rest = iter(answers)

        def answer(_):
            status, body = next(rest)
            return httpx.Response(status, json=body)

        server = Server(url="https://h", key="", local=False)
        return Connection(server, pause=pauses.append, transport=httpx.MockTransport(answer))

    make.pauses = pauses
    return make


def test_each_status_is_told_once_and_the_receipt_is_returned(served):
    running, ended = {**OPEN, "status": "running"}, {**OPEN, "status": "ended", "receipt": {"ok": True}}
    told = []
    connection = served(*((200, one) for one in (OPEN, OPEN, running, ended)))
    assert checks.wait_for_check(connection, "check-1", on_status=told.append) == ({"ok": True}, None)
    assert told == ["waiting", "running"]
    assert served.pauses == list(checks.POLLS_S[:3])


def test_a_fault_of_the_data_is_a_result(served):
    fault = {"code": "bad_data", "message": "line 1", "hint": "Mend it."}
    connection = served((200, {**OPEN, "status": "ended", "receipt": {"ok": False}, "error": fault}))
    assert checks.wait_for_check(connection, "check-1") == ({"ok": False}, fault)


@pytest.mark.parametrize(("code", "kind"), [("base_model", BaseModelError), ("unavailable", UnavailableError)])
def test_a_check_without_a_result_fails_as_here(served, code, kind):
    fault = {"code": code, "message": "no base.", "hint": "Name another one."}
    with pytest.raises(kind, match="no base") as caught:
        checks.wait_for_check(served((200, {**OPEN, "status": "ended", "failure": fault})), "check-1")
    assert caught.value.hint == "Name another one."


def test_an_expired_check_and_an_answer_of_another_form_are_named(served):
    gone = {"error": {"message": "there is no check check-1; a result is kept for an hour.", "code": "check_not_found"}}
    with pytest.raises(NotFoundError, match="kept for an hour"):
        checks.wait_for_check(served((404, gone)), "check-1")
    with pytest.raises(UnavailableError, match="status"):
        checks.wait_for_check(served((200, {**OPEN, "status": "gone"})), "check-1")
