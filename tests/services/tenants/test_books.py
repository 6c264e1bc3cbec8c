"""The books as people ask for them: months and groups are checked, and a page of the audit follows another."""

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.services.tenants.books import read_audit, read_usage
from celora.services.tenants.keys import create_key
from celora.services.tenants.limits import set_tenant


@pytest.mark.parametrize("wrong", [{"month": "2026-13"}, {"month": "x" * 300}, {"by": ["worker"]}])
def test_a_question_that_has_no_answer_is_refused(here, wrong):
    with pytest.raises(SettingsError):
        read_usage(**wrong)


def test_the_books_of_an_unknown_tenant_are_refused(here):
    for read in (read_usage, read_audit):
        with pytest.raises(NotFoundError):
            read(tenant="nobody")


def test_a_tenant_without_use_has_none(here):
    set_tenant("acme", {})
    assert read_usage(tenant="acme", month="2026-11", by=["user"]) == []


def test_the_audit_is_read_page_by_page(here):
    made = [create_key("acme").id for _ in range(3)]
    first = read_audit(action="key", limit=2)
    second = read_audit(action="key", limit=2, before_id=first[-1].id)
    assert [row.object for row in (*first, *second)] == made[::-1]
