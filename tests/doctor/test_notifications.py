"""Receivers of notices: what sends to them, the secrets of the record, and those that are off."""

import pytest

from celora.doctor import notifications as module
from celora.doctor.finding import Level
from celora.doctor.notifications import notifications
from celora.models.notifications.deliveries import switch_off
from celora.models.notifications.notices import Notice
from celora.models.notifications.receivers import NewReceiver, add_receiver
from celora.models.scope.scope import Scope
from celora.models.tables import Receiver
from celora.settings.sealing import seal
from celora.settings.settings import load_settings


@pytest.fixture
def found(database, home):
    """The findings by their names, with settings of the test's own."""

    def look(**settings):
        with database.session(Scope.everything) as session:
            return {one.check: one for one in notifications(session, load_settings(**settings))}

    return look


@pytest.fixture
def add(database, home):
    def make(name, kind="webhook", sealed=None):
        facts = {"name": name, "url": "u", "notices": [Notice.DONE]}
        sealed = sealed or seal("whsec_x", load_settings())
        with database.transaction(Scope.everything) as session:
            add_receiver(session, "acme", NewReceiver(id=name, kind=kind, sealed=sealed, **facts))

    return make


def test_an_installation_that_notifies_nobody_needs_nothing_and_gets_no_secret(found, home):
    assert {name: one.level for name, one in found().items()} == {"notify": Level.OK}
    assert not (home / "secrets.json").exists()


def test_receivers_that_work_are_well(found, add):
    add("hook")
    add("chan", kind="channel")
    assert {one.level for one in found().values()} == {Level.OK}


def test_a_package_that_is_missing_is_named(found, add, monkeypatch):
    add("hook")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "standardwebhooks" else object())
    sender = found()["notify.sender"]
    assert (sender.level, "standardwebhooks" in sender.found, "celora[notify]" in sender.fix) == (
        Level.FAIL,
        True,
        True,
    )


def test_a_secret_of_another_machine_is_named(found, add, home):
    add("hook")
    secrets = found(record_secret="another secret of at least thirty-two letters")["notify.secrets"]
    assert (secrets.level, "1 of 1" in secrets.found, "hook" in secrets.found) == (Level.FAIL, True, True)
    (home / "secrets.json").unlink()
    assert found()["notify.secrets"].level is Level.FAIL
    assert not (home / "secrets.json").exists(), "the command changes nothing"


def test_a_receiver_that_is_off_is_named_with_the_cause(found, add, database):
    add("hook")
    with database.transaction(Scope.everything) as session:
        switch_off(session, session.get_one(Receiver, "hook"), "it answered 410 Gone")
    receivers = found()["notify.receivers"]
    assert (receivers.level, "hook of acme (it answered 410 Gone)" in receivers.found) == (Level.WARN, True)
    assert "celora notify on hook --tenant acme" in receivers.fix
