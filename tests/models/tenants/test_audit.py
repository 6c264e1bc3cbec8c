"""The audit: who did what to which object, in the transaction of the change."""

import pytest

from celora.models.scope.scope import Scope
from celora.models.tables import AuditEntry
from celora.models.tenants.audit import Actor, acting, current_actor, list_audit, record_audit
from celora.settings.key_format import new_key
from celora.settings.redaction import MASK

ADA = Actor("ada", key_id="key_1", address="10.0.0.9")


def write(database, action, target, tenant="acme", scope=Scope.everything, **facts):
    with database.transaction(scope) as session:
        record_audit(session, ADA, action, target, tenant=tenant, **facts)


def listed(database, scope=Scope.everything, **guards):
    with database.session(scope) as session:
        return list_audit(session, **guards)


def test_a_row_says_who_what_where_and_the_object_before_and_after(database):
    write(database, "tenant.set", "acme", before={"budget": None}, after={"budget": 5})
    row = listed(database)[0]
    assert (row.actor, row.key_id, row.address) == ("ada", "key_1", "10.0.0.9")
    assert (row.action, row.object, row.before, row.after) == ("tenant.set", "acme", {"budget": None}, {"budget": 5})


def test_a_change_that_fails_leaves_no_row(database):
    def fail():
        with database.transaction(Scope.everything) as session:
            record_audit(session, ADA, "job.cancel", "job", tenant="acme")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert listed(database) == []


def test_no_secret_enters_the_audit(database):
    write(database, "job.submit", "job", after={"metadata": {"token": new_key()}})
    assert listed(database)[0].after == {"metadata": {"token": MASK}}


def test_rows_are_found_by_tenant_object_and_kind_of_action_the_newest_first(database):
    write(database, "job.submit", "one")
    write(database, "job.cancel", "one")
    write(database, "jobless", "one", tenant="other")
    assert [row.action for row in listed(database, action="job")] == ["job.cancel", "job.submit"]
    assert [row.action for row in listed(database, tenant="other")] == ["jobless"]
    assert len(listed(database, target="one")) == 3
    newest = listed(database, limit=1)[0]
    assert [row.action for row in listed(database, before_id=newest.id, limit=1)] == ["job.cancel"]


def test_a_tenant_sees_its_own_rows_alone(database):
    write(database, "job.cancel", "ours")
    write(database, "job.cancel", "theirs", tenant="other")
    write(database, "worker.cordon", "h100", tenant=None)
    assert [row.object for row in listed(database, Scope.of("acme"))] == ["ours"]


def test_a_tenants_session_writes_its_own_rows(database):
    write(database, "job.cancel", "ours", scope=Scope.of("acme"))
    assert listed(database)[0].tenant == "acme"


def test_the_actor_of_a_block_acts_in_it_alone():
    outside = current_actor()
    with acting(ADA):
        assert current_actor() == ADA
    assert current_actor() == outside
    assert outside.who.startswith("operator ")


def test_a_very_long_object_is_cut(database):
    write(database, "job.cancel", "x" * 999)
    assert len(listed(database)[0].object) == AuditEntry.__table__.c.object.type.length
