"""Secrets through the service: a change is audited by its name, and no value enters the record."""

import pytest
from sqlalchemy import text

from celora.errors import NotFoundError, SettingsError
from celora.models.scope.scope import Scope
from celora.services.tenants.books import read_audit
from celora.services.tenants.secrets import list_secrets, remove_secret, set_secret
from celora.settings.secrets import Secrets


def test_a_secret_is_its_tenants_and_its_changes_are_audited(here, home):
    set_secret("HF_TOKEN", "acmes-value", tenant="acme")
    set_secret("HF_TOKEN", "ours-value")
    assert (list_secrets(tenant="acme"), list_secrets(tenant="other")) == (["HF_TOKEN"], [])
    assert Secrets(home).get("HF_TOKEN") == "ours-value"
    remove_secret("HF_TOKEN", tenant="acme")
    assert [row.action for row in read_audit(tenant="acme", action="secret")] == ["secret.remove", "secret.set"]
    with here.session(Scope.everything) as session:
        rows = str(session.execute(text("SELECT * FROM audit")).all())
    assert "acmes-value" not in rows
    assert "ours-value" not in rows


def test_a_change_that_is_refused_leaves_no_row(here):
    with pytest.raises(SettingsError):
        set_secret("not a name", "value")
    with pytest.raises(NotFoundError):
        remove_secret("HF_TOKEN", tenant="acme")
    with pytest.raises(SettingsError):
        set_secret("HF_TOKEN", "value", tenant="../up")
    assert read_audit(action="secret") == []
