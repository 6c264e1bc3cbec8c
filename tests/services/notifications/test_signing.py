"""Signatures: Standard Webhooks accepts them, with both secrets while they overlap, and with no other one."""

import base64
import sys
from datetime import UTC, datetime, timedelta

import pytest

from celora.errors import UnavailableError
from celora.models.tables import Receiver
from celora.services.notifications import signing
from celora.settings.sealing import seal
from celora.settings.settings import load_settings

standardwebhooks = pytest.importorskip("standardwebhooks")
BODY = '{"id":"evt_1","word":"größer"}'.encode()


def accepted(secret, headers):
    try:
        standardwebhooks.Webhook(secret).verify(BODY, headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def test_a_secret_is_256_bits_and_no_other_one(home):
    first, second = signing.new_secret(), signing.new_secret()
    assert first != second
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32
    assert signing.hint_of(first) == first[-4:]


def test_a_signature_is_accepted_with_each_of_its_secrets_alone(home):
    old, new, other = (signing.new_secret() for _ in range(3))
    headers = signing.headers_of("evt_1", datetime.now(UTC), BODY, [new, old])
    assert [accepted(secret, headers) for secret in (old, new, other)] == [True, True, False]
    assert not accepted(new, headers | {"webhook-id": "evt_2"})


def test_the_old_secret_signs_until_its_time(home):
    settings, at = load_settings(), datetime.now(UTC)
    row = Receiver(sealed=seal("new", settings), old_sealed=seal("old", settings), old_until=at + timedelta(hours=1))
    assert signing.secrets_of(row, settings, at) == ["new", "old"]
    assert signing.secrets_of(row, settings, at + timedelta(hours=1)) == ["new"]
    row.old_sealed = row.old_until = None
    assert signing.secrets_of(row, settings, at) == ["new"]


def test_a_missing_part_names_its_command(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "standardwebhooks", None)
    with pytest.raises(UnavailableError, match="celora\\[notify\\]"):
        signing.headers_of("evt_1", datetime.now(UTC), BODY, [signing.new_secret()])
