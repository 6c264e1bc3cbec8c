"""The recent use of tenants: added by charges, decayed and lifted by rounds, written where something changed."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from celora.models.database import now
from celora.models.queue.use import add_use
from celora.models.scope.scope import Scope
from celora.models.tables import Tenant, TenantUse
from celora.scheduling.records import Rules
from celora.services.rounds.shares import read_standing, settle_use
from celora.settings.settings import load_settings

RULES = Rules(half_life_s=3600, credit_s=100)


@pytest.fixture
def tenants(home, database):
    """Tenants without use."""
    with database.transaction(Scope.everything) as session:
        session.add_all(Tenant(name=name, created_at=now(session)) for name in ("a", "b", "c"))
    return database


def round_(database, *waiting, later_s=0.0):
    """Settle a round in which these tenants wait; return their standing."""
    with database.transaction(Scope.everything) as session:
        at = now(session) + timedelta(seconds=later_s)
        standing = read_standing(
            session, load_settings(running=False), RULES, at, holdings=list, at_work=set(), waiting=set(waiting)
        )
        settle_use(session, standing, RULES, at)
        return standing


def rows(database):
    with database.session(Scope.everything) as session:
        return {row.tenant: (pytest.approx(row.gpu_seconds, rel=0.05), row.competes)
                for row in session.scalars(select(TenantUse))}  # fmt: skip


def test_a_charge_adds_and_a_round_takes_the_decay_off(tenants):
    with tenants.transaction(Scope.everything) as session:
        add_use(session, "a", 600)
        add_use(session, "a", 400)
        add_use(session, "b", 0)
    assert rows(tenants) == {"a": (1000, False)}
    round_(tenants, "a")
    round_(tenants, "a", later_s=3600)
    assert rows(tenants)["a"] == (500, True)


def test_nothing_is_written_where_nothing_changed(tenants):
    round_(tenants, "a", "b")
    before = rows(tenants)
    standing = round_(tenants, "a", "b", later_s=1)
    assert (standing.begins, standing.ceases, standing.due) == ({}, set(), set())
    assert rows(tenants) == before


def test_idle_time_is_not_saved_up(tenants):
    round_(tenants, "a")
    with tenants.transaction(Scope.everything) as session:
        add_use(session, "a", 5000)
    standing = round_(tenants, "a", "b")
    assert standing.accounts["b"].used_s == pytest.approx(4900, rel=0.05)
    assert rows(tenants)["b"] == (4900, True)
    round_(tenants, "a")
    assert rows(tenants)["b"] == (4900, False)
