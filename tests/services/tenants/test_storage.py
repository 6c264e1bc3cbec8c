"""The storage limit where bytes come in: what fits is let in, and two at once do not share the same room."""

import threading

import pytest

from celora.errors import TenantLimitError
from celora.models import datasets
from celora.models.scope.scope import Scope
from celora.models.tenants.limits import add_tenant, set_limits
from celora.services.tenants.storage import check_storage


def add(session, tenant, size_bytes, digit):
    """Add a dataset's version of some bytes, as an import does."""
    check_storage(session, tenant, size_bytes)
    facts = {"sha256": digit * 64, "uri": f"file:///{digit}", "size_bytes": size_bytes}
    datasets.register(session, tenant=tenant, name=f"rows-{digit}", **facts)


@pytest.fixture
def limited(here):
    """A tenant that may store a hundred bytes, and one without a limit."""
    with here.transaction(Scope.everything) as session:
        set_limits(session, "acme", {"storage_bytes": 100})
        add_tenant(session, "other")
    return here


def test_what_fits_is_let_in_and_the_next_byte_is_refused_with_the_numbers(limited):
    with limited.transaction(Scope.of("acme")) as session:
        add(session, "acme", 60, "1")
        add(session, "acme", 40, "2")
        with pytest.raises(
            TenantLimitError, match="stores 100 bytes and may store 100: 1 more have no room"
        ) as refused:
            check_storage(session, "acme", 1)
    assert refused.value.facts == {"limit": 100, "stored": 100, "added": 1}


def test_a_tenant_without_a_limit_and_one_without_a_row_store_what_they_want(limited):
    for tenant in ("other", "nobody"):
        with limited.transaction(Scope.of(tenant)) as session:
            check_storage(session, tenant, 2**50)


def test_of_two_that_come_at_once_one_has_the_room(limited):
    answers, start = [], threading.Barrier(2)

    def come(digit):
        start.wait(timeout=30)
        try:
            with limited.transaction(Scope.of("acme")) as session:
                add(session, "acme", 60, digit)
            answers.append("in")
        except TenantLimitError:
            answers.append("refused")

    threads = [threading.Thread(target=come, args=(digit,)) for digit in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["in", "refused"]
