"""The URL of a server is read as people write it, and a key travels only where nobody else can read it."""

import pytest

from celora.api.client.server import parse_server
from celora.errors import AccessError, SettingsError


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://celora.example", "https://celora.example"),
        ("https://celora.example/", "https://celora.example"),
        (" https://celora.example/v1\n", "https://celora.example"),
        ("https://celora.example/v1/", "https://celora.example"),
        ("https://proxy.example:8443/team/celora/v1", "https://proxy.example:8443/team/celora"),
        ("http://127.0.0.1:8320/v1", "http://127.0.0.1:8320"),
        ("http://[::1]:8320", "http://[::1]:8320"),
        ("http://localhost:8320", "http://localhost:8320"),
    ],
)
def test_a_url_may_have_v1_at_its_end_or_not(given, url):
    assert parse_server(given, "celora_k").url == url


@pytest.mark.parametrize(
    "given",
    ["", "celora.example", "ftp://celora.example", "https://", "https://h:port", "https://h:99999", "https://h/v1?a=1",
     "https://h/#x", "https://a b", "https://[::1", "file:///etc"],
)  # fmt: skip
def test_what_is_no_url_is_one_sentence_with_the_right_form(given):
    with pytest.raises(SettingsError, match="is no URL of a server") as caught:
        parse_server(given, "")
    assert "https://HOST" in caught.value.hint


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(SettingsError) as caught:
        parse_server("https://ada:secret@celora.example", "")
    assert "secret" not in str(caught.value)
    assert "CELORA_API_KEY" in caught.value.hint


def test_a_key_travels_without_encryption_only_to_this_machine_or_by_permission():
    with pytest.raises(AccessError, match="without encryption") as caught:
        parse_server("http://10.0.0.5:8320", "celora_k")
    assert "CELORA_PLAIN_HTTP=1" in caught.value.hint
    assert parse_server("http://10.0.0.5:8320", "celora_k", plain_http=True).key == "celora_k"
    assert parse_server("http://10.0.0.5:8320", "").key == ""
    assert parse_server("http://127.0.0.1:8320", "celora_k").local


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_with_other_letters_is_refused_and_not_repeated(key):
    with pytest.raises(SettingsError) as caught:
        parse_server("https://h", key)
    assert key not in str(caught.value)
    assert "celora_secret" not in repr(parse_server("https://h", "celora_secret"))
