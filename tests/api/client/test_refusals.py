"""Every answer that is none, and every silence, is one sentence with the exit code of its kind."""

import ssl

import httpx
import pytest

from celora.api.client.refusals import broken, refusal_of, stranger, wait_s
from celora.errors import AccessError, NotFoundError, RequestError, SettingsError, TenantLimitError, UnavailableError

URL = "https://celora.example"


def envelope(status, code="x", **headers):
    return httpx.Response(status, json={"error": {"message": "told.", "code": code, "param": "p"}}, headers=headers)


@pytest.mark.parametrize(
    ("answer", "kind", "exit_code", "words"),
    [
        (envelope(401, "invalid_api_key"), AccessError, 77, "told. Set CELORA_API_KEY"),
        (envelope(403), AccessError, 77, "told."),
        (envelope(404), NotFoundError, 66, "told."),
        (envelope(400), RequestError, 64, "told."),
        (envelope(409), RequestError, 64, "told."),
        (envelope(413), RequestError, 64, "told."),
        (envelope(429, "insufficient_quota", **{"x-should-retry": "false"}), TenantLimitError, 77, "told."),
        (envelope(429, "rate_limit_exceeded", **{"retry-after": "60"}), UnavailableError, 69, "Wait 60 s"),
        (envelope(500, **{"x-request-id": "r-1"}), UnavailableError, 69, "The request's id is r-1."),
        (httpx.Response(502, text="<html>"), UnavailableError, 69, "is not available at the moment (502)"),
        (httpx.Response(404, text="<html>"), SettingsError, 64, "answers as no celora server does (404, text/plain"),
        (httpx.Response(404, json={"detail": "x"}), SettingsError, 64, "answers as no celora server does"),
        (httpx.Response(301, headers={"location": "https://other"}), SettingsError, 64, "redirects to https://other"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_one_sentence(answer, kind, exit_code, words):
    found = refusal_of(answer, URL)
    assert (type(found), found.exit_code) == (kind, exit_code)
    assert words in str(found)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (httpx.ConnectError("refused"), "cannot be reached (refused)"),
        (httpx.ConnectTimeout("x"), "did not accept a connection in time"),
        (httpx.ReadTimeout("x"), "did not answer in time"),
        (httpx.RemoteProtocolError("cut off"), "broke (cut off)"),
    ],
)
def test_no_answer_is_one_sentence(fault, words):
    found = broken(fault, URL)
    assert (found.exit_code, words in str(found)) == (69, True)


def test_a_certificate_that_is_not_trusted_names_the_remedy():
    fault = httpx.ConnectError("failed")
    fault.__cause__ = ssl.SSLCertVerificationError("bad")
    fault.__cause__.verify_message = "self-signed certificate"
    found = broken(fault, URL)
    assert "self-signed certificate" in found.message
    assert "SSL_CERT_FILE" in found.hint


def test_an_answer_of_success_that_is_no_celoras_says_so():
    found = stranger(httpx.Response(200, text="<html>"), URL)
    assert "answers as no celora server does (200, text/plain" in str(found)


@pytest.mark.parametrize(("headers", "wait"), [({"retry-after": "7"}, 7.0), ({"retry-after": "0"}, 0.1), ({}, 2.0),
                                               ({"retry-after": "Mon, 30 Nov"}, 2.0), ({"retry-after": "9" * 9}, 2.0),
                                               ({"x-should-retry": "false", "retry-after": "7"}, None)])  # fmt: skip
def test_the_wait_is_the_servers_number_or_a_short_one(headers, wait):
    assert wait_s(httpx.Response(429, headers=headers)) == wait
