"""Receivers: a tenant's own, found by id or by a name that is no other's, and no more than a limit."""

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.models.notifications.notices import Notice
from celora.models.notifications.receivers import (
    MOST_RECEIVERS,
    NewReceiver,
    add_receiver,
    find_receiver,
    list_receivers,
    switch_on,
)
from celora.models.scope.scope import Scope


def new(receiver_id, name="ci", kind="webhook"):
    return NewReceiver(id=receiver_id, kind=kind, name=name, url="u", notices=[Notice.DONE], sealed="s")


def test_a_receiver_is_found_by_its_id_or_by_a_name_that_it_alone_has(database):
    with database.transaction(Scope.everything) as session:
        for receiver_id, name in (("r1", "one"), ("r2", "two"), ("r3", "two")):
            add_receiver(session, "acme", new(receiver_id, name))
        assert [find_receiver(session, "acme", words).id for words in ("r1", "one", "r2")] == ["r1", "r1", "r2"]
        for tenant, words in (("acme", "two"), ("acme", "r9"), ("other", "r1")):
            with pytest.raises(NotFoundError, match="there is no receiver"):
                find_receiver(session, tenant, words)


def test_a_tenant_has_so_many_of_a_kind_and_no_more(database):
    with database.transaction(Scope.everything) as session:
        for number in range(MOST_RECEIVERS):
            add_receiver(session, "acme", new(f"r{number}"))
        with pytest.raises(SettingsError, match=f"{MOST_RECEIVERS} of them"):
            add_receiver(session, "acme", new("more"))
        add_receiver(session, "acme", new("channel", kind="channel"))
        add_receiver(session, "other", new("theirs"))
        assert len(list_receivers(session, tenant="acme", kind="webhook")) == MOST_RECEIVERS
        assert [row.id for row in list_receivers(session, tenant="other")] == ["theirs"]


def test_a_receiver_is_switched_on_again(database):
    with database.transaction(Scope.everything) as session:
        row = add_receiver(session, "acme", new("r1"))
        row.off_at = row.failing_since = row.created_at
        row.off_reason = "it failed"
        assert switch_on(session, "acme", "r1").off_at is None
        assert (row.off_reason, row.failing_since) == (None, None)
