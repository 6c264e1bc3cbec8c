"""``celora key``: the key is printed once, for people and programs, and wrong words are refused in a sentence."""

import pytest

from celora.errors import AccessError
from celora.services.tenants.keys import authenticate
from celora.settings.key_format import is_key


def create(celora, *words):
    result = celora("key", "create", "--tenant", "team-a", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return result.json()


def test_a_key_is_made_listed_rotated_and_revoked(celora):
    made = create(celora, "--scopes", "read", "--name", "ci")
    assert is_key(made["key"])
    assert authenticate(made["key"]).scopes == {"read"}
    new = celora("key", "rotate", made["id"], "--keep", "10m", "--json").json()
    assert authenticate(made["key"]).tenant == authenticate(new["key"]).tenant == "team-a"
    assert celora("key", "revoke", new["id"], "--json").json()["id"] == new["id"]
    with pytest.raises(AccessError):
        authenticate(new["key"])
    listed = celora("key", "list", "--tenant", "team-a", "--json")
    assert {row["id"] for row in listed.json()} == {made["id"], new["id"]}
    for key in (made["key"], new["key"]):
        assert key not in listed.stdout


def test_people_get_the_key_alone_on_standard_output(celora):
    result = celora("key", "create", "--tenant", "team-a", "--expires", "90d")
    assert is_key(result.stdout.strip())
    assert "not shown again" in result.stderr
    shown = celora("key", "list").stdout
    assert "team-a" in shown
    assert result.stdout.strip() not in shown


def test_no_key_is_said_in_words(celora):
    assert "no key" in celora("key", "list").stdout
    assert celora("key", "list", "--json").json() == []


@pytest.mark.parametrize("words", [
    ("create", "--tenant", "a/b"), ("create", "--tenant", "x" * 300), ("create", "--tenant", "\u202eevil"),
    ("create", "--tenant", "team-a", "--scopes", "root"), ("create", "--tenant", "team-a", "--scopes", ","),
    ("create", "--tenant", "team-a", "--expires", "soon"), ("create", "--tenant", "team-a", "--expires", "2001-01-01"),
    ("create", "--tenant", "team-a", "--expires", "99999999999d"),
    ("create", "--tenant", "team-a", "--name", "\u202eevil"), ("create", "--tenant", "team-a", "--name", "x" * 300),
    ("create", "--tenant", "team-a", "--expires", "0001-01-01T00:00+23:59"),
    ("revoke", ""), ("revoke", "x" * 300), ("revoke", "key_none", "--tenant", ""),
    ("revoke", "key_none"), ("rotate", "key_none"), ("rotate", "key_none", "--keep", "soon"),
])  # fmt: skip
def test_wrong_words_are_refused_in_one_sentence(celora, words):
    result = celora("key", *words)
    assert result.exit_code in (64, 66)
    assert "Traceback" not in result.stderr
    assert celora("key", "list", "--json").json() == []
