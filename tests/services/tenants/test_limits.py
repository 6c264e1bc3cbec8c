"""Limits through the service: shown as they are enforced, audited, and never below what is used."""

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.models.database import now
from celora.models.scope.scope import Scope
from celora.models.tables import LedgerMonth
from celora.models.tenants.limits import Limits
from celora.models.tenants.use import month_of
from celora.services.tenants.books import read_audit
from celora.services.tenants.limits import as_data, list_tenants, set_tenant, show_tenant


@pytest.fixture
def used(here):
    """A tenant that has used 10 minutes and 4 of the currency this month, and holds 1 more."""
    set_tenant("acme", {})
    with here.transaction(Scope.everything) as session:
        at = now(session)
        session.add(LedgerMonth(tenant="acme", month=month_of(at), spent_ms=600_000, spent_micros=4_000_000,
                                held_micros=1_000_000, updated_at=at))  # fmt: skip


def test_a_tenant_shows_its_limits_and_what_is_used_of_them(used):
    set_tenant("acme", {"budget": 10.0, "over": "refuse"})
    view = show_tenant("acme")
    assert view.limits == Limits(budget=10.0, over="refuse")
    data = as_data(view)
    assert (data["used_budget"], data["held_budget"], data["used_gpu_minutes"]) == (4.0, 1.0, 10.0)
    assert [one.name for one in list_tenants()] == ["acme"]


def test_a_change_is_audited_with_the_values_before_and_after(used):
    set_tenant("acme", {"budget": 10.0})
    set_tenant("acme", {"budget": None, "max_jobs": 3})
    row = read_audit(action="tenant.set", target="acme")[0]
    assert (row.before, row.after) == ({"budget": 10.0, "max_jobs": None}, {"budget": None, "max_jobs": 3})
    assert row.actor.startswith("operator ")
    assert read_audit(tenant="acme", as_tenant=True)[0].actor == "operator"


@pytest.mark.parametrize("changes", [{"budget": 3.9}, {"gpu_minutes": 9}])
def test_a_limit_below_what_is_used_is_refused(used, changes):
    with pytest.raises(SettingsError, match="is below the"):
        set_tenant("acme", changes)
    assert show_tenant("acme").limits == Limits()


def test_zero_stops_a_tenant_that_has_used_something(used):
    assert set_tenant("acme", {"budget": 0}).limits.budget == 0


def test_an_unknown_tenant_is_not_there(here):
    set_tenant("acme", {})
    with pytest.raises(NotFoundError, match="did you mean acme"):
        show_tenant("acmee")


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "\u202eevil", "x" * 300, ".", ".."])
def test_a_name_that_no_tenant_can_have_is_refused(here, name):
    with pytest.raises(SettingsError, match="can't be a tenant's name"):
        set_tenant(name, {})
