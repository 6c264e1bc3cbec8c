"""Keys act for one tenant, with the scopes that they were given, until they are revoked, rotated or expired."""

from datetime import timedelta

import pytest
from sqlalchemy import select, text

from celora.errors import AccessError, NotFoundError, SettingsError
from celora.models.database import now
from celora.models.scope.scope import Scope
from celora.models.tables import ApiKey
from celora.models.tenants import keys
from celora.settings.key_format import new_key


@pytest.fixture
def do(database):
    """Calls a function of ``keys`` in a transaction of its own."""

    def run(verb, /, *args, **options):
        with database.transaction(Scope.everything) as session:
            return getattr(keys, verb)(session, *args, **options)

    return run


def test_a_key_acts_for_its_tenant(do):
    row, key = do("create_key", tenant="acme", name="ci", by="ada")
    assert do("authenticate", key) == keys.Principal(row.id, "acme", "ci", frozenset({"read", "submit"}))


def test_the_record_keeps_no_key(do, database):
    _, key = do("create_key", tenant="acme")
    with database.session(Scope.everything) as session:
        kept = session.execute(text("SELECT * FROM api_key")).one()
    assert not any(key in str(value) for value in kept)


def test_a_key_that_is_revoked_ends_at_once(do):
    row, key = do("create_key", tenant="acme")
    do("authenticate", key)
    first = do("revoke_key", row.id).revoked_at
    assert do("revoke_key", row.id).revoked_at == first
    with pytest.raises(AccessError):
        do("authenticate", key)


def test_a_key_expires(do, database):
    with database.session(Scope.everything) as session:
        at = now(session)
    _, key = do("create_key", tenant="acme", expires_at=at + timedelta(hours=1))
    do("authenticate", key)
    with database.transaction(Scope.everything) as session:
        session.scalars(select(ApiKey)).one().expires_at = at - timedelta(seconds=1)
    with pytest.raises(AccessError):
        do("authenticate", key)
    with pytest.raises(SettingsError, match="expired already"):
        do("create_key", tenant="acme", expires_at=at - timedelta(seconds=1))


def test_an_unknown_and_a_revoked_key_get_the_same_answer(do):
    row, key = do("create_key", tenant="acme")
    do("revoke_key", row.id)
    answers = set()
    for one in (key, new_key()):
        with pytest.raises(AccessError) as refused:
            do("authenticate", one)
        answers.add(str(refused.value))
    assert len(answers) == 1


@pytest.mark.parametrize("words", ["", "celora_", "sk-" + "a" * 40, "celora_\0", "celora_" + "a" * 49, "é" * 300])
def test_words_that_are_no_key_cost_no_query(do, words):
    with pytest.raises(AccessError, match="no key of celora"):
        do("authenticate", words)


def test_a_rotated_key_keeps_its_rights_and_ends_the_old_one(do):
    row, old = do("create_key", tenant="acme", name="ci", scopes=["admin", "read"])
    made, new = do("rotate_key", row.id)
    assert (made.scopes, made.name, made.rotated_from) == (["read", "admin"], "ci", row.id)
    assert do("authenticate", new).tenant == "acme"
    with pytest.raises(AccessError):
        do("authenticate", old)
    with pytest.raises(SettingsError, match="revoked"):
        do("rotate_key", row.id)


def test_the_old_key_may_stay_valid_for_a_while(do):
    row, old = do("create_key", tenant="acme")
    do("rotate_key", row.id, keep_s=60)
    assert do("authenticate", old).key_id == row.id
    kept = next(one for one in do("list_keys", tenant="acme") if one.id == row.id)
    assert kept.revoked_at is None
    assert kept.expires_at is not None


def test_the_last_use_is_noted_once_a_minute(do, database):
    row, key = do("create_key", tenant="acme")
    do("authenticate", key)
    first = do("list_keys")[0].last_used_at
    do("authenticate", key)
    assert do("list_keys")[0].last_used_at == first
    with database.transaction(Scope.everything) as session:
        session.get_one(ApiKey, row.id).last_used_at = first - timedelta(minutes=2)
    do("authenticate", key)
    assert do("list_keys")[0].last_used_at >= first


@pytest.mark.parametrize("scopes", [["root"], [], ["read", "write"]])
def test_an_unknown_scope_is_refused(do, scopes):
    with pytest.raises(SettingsError, match="scope"):
        do("create_key", tenant="acme", scopes=scopes)


def test_a_principal_has_only_its_scopes():
    principal = keys.Principal("k", "acme", "", frozenset({"read"}))
    principal.require("read")
    with pytest.raises(AccessError, match="needs the scope submit"):
        principal.require("submit")


def test_a_tenant_finds_only_its_own_keys(do, database):
    ours, _ = do("create_key", tenant="acme")
    theirs, _ = do("create_key", tenant="other")
    with database.transaction(Scope.of("acme")) as session:
        assert [row.id for row in keys.list_keys(session)] == [ours.id]
        with pytest.raises(NotFoundError):
            keys.revoke_key(session, theirs.id)
