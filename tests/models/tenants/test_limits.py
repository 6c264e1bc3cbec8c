"""Limits of a tenant: set one by one, checked, and compared with what a month has left."""

import pytest

from celora.errors import SettingsError
from celora.models.scope.scope import Scope
from celora.models.tables import Checkpoint, LedgerMonth
from celora.models.tenants.limits import Limits, limits_of, set_limits, stored_bytes
from celora.models.tenants.use import Use

MONTH = LedgerMonth(tenant="acme", month="2026-11", spent_ms=60_000, spent_micros=3_000_000, held_ms=60_000,
                    held_micros=1_000_000)  # fmt: skip


@pytest.fixture
def set_(database):
    def run(**changes):
        with database.transaction(Scope.everything) as session:
            return set_limits(session, "acme", changes)

    return run


def test_a_tenant_is_made_by_its_first_limit(set_, database):
    assert set_(budget=5.0) == Limits(budget=5.0)
    with database.session(Scope.everything) as session:
        assert limits_of(session, "acme") == Limits(budget=5.0)
        assert limits_of(session, "nobody") == Limits()


def test_a_limit_is_lifted_and_the_others_stay(set_):
    set_(budget=5.0, max_jobs=0)
    assert set_(budget=None, over="refuse") == Limits(max_jobs=0, over="refuse")


@pytest.mark.parametrize("wrong", [
    {"budget": -1}, {"max_gpus": -1}, {"gpu_minutes": float("nan")}, {"gpu_minutes": float("inf")}, {"weight": 0},
    {"weight": None}, {"max_priority": 101}, {"max_priority": None}, {"storage_bytes": 2**60}, {"over": "shout"},
    {"max_jobs": 10**400}, {"max_gpus": -(10**400)}, {"max_jobs": 1.5}, {"max_gpus": "2"}, {"budget": "much"},
    {"weight": 5e-324}, {"weight": 1e300}, {"weight": float("nan")}, {"max_job": 3}, {"classes": "normal,root"},
    {"classes": ""}, {"classes": None},
])  # fmt: skip
def test_a_limit_that_is_none_is_refused_and_nothing_changes(set_, database, wrong):
    with pytest.raises(SettingsError):
        set_(**{"max_jobs": 3, **wrong})
    with database.session(Scope.everything) as session:
        assert limits_of(session, "acme") == Limits()


@pytest.mark.parametrize(
    ("limits", "wanted", "lacks"),
    [
        (Limits(), Use(10**12, 10**12), None),
        (Limits(gpu_minutes=3), Use(60_000), None),
        (Limits(gpu_minutes=3), Use(60_001), "gpu_minutes"),
        (Limits(budget=5), Use(0, 1_000_000), None),
        (Limits(budget=5), Use(0, 1_000_001), "budget"),
        (Limits(budget=0), Use(60_000, 0), "budget"),
        (Limits(gpu_minutes=0), Use(), "gpu_minutes"),
    ],
)
def test_a_use_must_fit_what_is_left(limits, wanted, lacks):
    assert limits.left(MONTH, Use()).lacks(wanted) == lacks


def test_a_job_replaces_its_own_hold():
    assert Limits(budget=5).left(MONTH, Use(0, 1_000_000)).lacks(Use(0, 2_000_000)) is None
    assert Limits(budget=5).left(MONTH, Use()).bounded(Use(9, 9_000_000)) == Use(9, 1_000_000)


def test_stored_bytes_are_those_of_files_datasets_checkpoints_and_adapters(busy_record):
    with busy_record.session(Scope.everything) as session:
        checkpoint = session.get_one(Checkpoint, ("running", 1, 3)).size_bytes
        assert stored_bytes(session, "acme") == 3_000_000_000 + 3 + checkpoint
        assert stored_bytes(session, "other") == 0
