"""Keys through the service: shown once, audited, and each tenant's own."""

from datetime import datetime, timedelta, timezone

import pytest

from celora.errors import AccessError, NotFoundError, SettingsError
from celora.models.tenants.audit import Actor, acting
from celora.services.tenants.books import read_audit
from celora.services.tenants.keys import authenticate, create_key, list_keys, revoke_key, rotate_key
from celora.services.tenants.limits import set_tenant
from celora.settings.settings import get_settings

ADA = Actor("ada", key_id="key_admin", address="10.0.0.9")


def test_a_key_is_made_used_rotated_and_revoked_and_each_change_is_audited(here):
    with acting(ADA):
        made = create_key("acme", scopes=["read"], name="ci")
        assert authenticate(made.key).scopes == {"read"}
        assert made.key not in repr(made)
        new = rotate_key(made.id)
        revoke_key(new.id)
        revoke_key(new.id)
    for key in (made.key, new.key):
        with pytest.raises(AccessError):
            authenticate(key)
    rows = read_audit(tenant="acme", action="key")
    assert [(row.action, row.object, row.actor) for row in rows] == [
        ("key.revoke", new.id, "ada"),
        ("key.rotate", new.id, "ada"),
        ("key.create", made.id, "ada"),
    ]
    assert made.key not in str(rows)
    assert new.key not in str(rows)
    assert [view.created_by for view in list_keys("acme")] == ["ada", "ada"]


def test_a_key_of_another_tenant_is_not_there(here):
    made = create_key("acme")
    for do in (revoke_key, rotate_key):
        with pytest.raises(NotFoundError):
            do(made.id, tenant="other")
    create_key("other")
    assert made.id not in str(list_keys("other"))
    assert authenticate(made.key).tenant == "acme"


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "\u202eevil", "x" * 300, "ä"])
def test_a_name_that_no_tenant_can_have_is_refused(here, name):
    with pytest.raises(SettingsError, match="can't be a tenant's name"):
        create_key(name)


@pytest.mark.parametrize("name", ["", "nobody", "x" * 300, "\u202eevil"])
def test_the_keys_of_a_tenant_that_does_not_exist_are_not_listed(here, name):
    create_key("acme")
    with pytest.raises(NotFoundError, match="tenant"):
        list_keys(name)


def test_a_key_ends_within_the_calendar(here):
    for hours in (-23, 23):
        far = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=hours)))
        made = create_key("acme", expires_at=far)
        assert made.expires_at.year == 9999
        assert rotate_key(made.id).expires_at.year == 9999
    with pytest.raises(SettingsError, match="expired already"):
        create_key("acme", expires_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))))


@pytest.mark.parametrize("keep_s", [-1.0, 1e12, float("inf"), float("nan")])
def test_a_key_that_was_rotated_stays_valid_for_ten_years_at_most(here, keep_s):
    made = create_key("acme")
    with pytest.raises(SettingsError, match="ten years"):
        rotate_key(made.id, keep_s=keep_s)
    assert authenticate(made.key).tenant == "acme"


def test_an_operator_can_make_no_key_of_a_tenant_that_does_not_exist(here, monkeypatch):
    monkeypatch.setenv("CELORA_KNOWN_TENANTS_ONLY", "true")
    get_settings.cache_clear()
    with pytest.raises(NotFoundError, match="no tenant nobody"):
        create_key("nobody")
    set_tenant("acme", {"max_jobs": 1})
    assert create_key("acme").tenant == "acme"
    assert create_key("default").tenant == "default"
