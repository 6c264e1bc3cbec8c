"""Channels of a tenant as an operator manages them, and the log of deliveries."""

import pytest
from records import SPEC, Verbs
from sqlalchemy import select

from celora.errors import NotFoundError, SettingsError
from celora.models.notifications.deliveries import Try, record_try
from celora.models.notifications.notices import Notice
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import AuditEntry, Receiver
from celora.services.notifications import receivers

pytest.importorskip("apprise")
URL = "ntfys://secret-word@ntfy.example.org/topic"


def submit(record, job_id, tenant):
    Verbs(record).submit(job_id=job_id, spec=parse_spec({**SPEC, "tenant": tenant}))


def test_a_channel_is_listed_without_its_secret_and_its_changes_are_audited(record):
    made = receivers.add_channel("team-a", "ops", URL, notices=[Notice.FAILED, Notice.WAITING])
    assert (made.url, made.waiting_s, made.job) == ("ntfys://…", 3600, None)
    assert receivers.list_receivers("team-a") == receivers.list_receivers() == [made]
    for nobody in ("team-b", ""):
        with pytest.raises(NotFoundError, match="tenant"):
            receivers.list_receivers(nobody)
    receivers.switch_on("team-a", "ops")
    receivers.remove("team-a", made.id)
    assert receivers.list_receivers() == []
    with record.session(Scope.everything) as session:
        audit = list(session.scalars(select(AuditEntry).order_by(AuditEntry.id)))
        assert [row.action for row in audit] == ["channel.add", "channel.on", "channel.remove"]
        assert "secret-word" not in " ".join(str(vars(row)) for row in audit)


@pytest.mark.parametrize("name", ["", "a" * 65, "a\x1b[0m"])
def test_a_name_that_is_none_is_refused(record, name):
    with pytest.raises(SettingsError, match="printable"):
        receivers.add_channel("team-a", name, URL, notices=[Notice.DONE])


def test_a_name_stands_once_and_a_job_must_be_the_tenants(record):
    submit(record, "theirs", "team-b")
    receivers.add_channel("team-a", "ops", URL, notices=[Notice.DONE])
    with pytest.raises(SettingsError, match="already"):
        receivers.add_channel("team-a", "ops", URL, notices=[Notice.DONE])
    with pytest.raises(NotFoundError):
        receivers.add_channel("team-a", "one", URL, notices=[Notice.DONE], job_id="theirs")
    assert receivers.add_channel("team-b", "ops", URL, notices=[Notice.DONE], job_id="theirs").job == "theirs"


def test_the_log_shows_each_try_and_a_delivery_is_made_again(record):
    submit(record, "a", "team-a")
    made = receivers.add_channel("team-a", "ops", URL, notices=[Notice.CANCELLED])
    Verbs(record).request_cancel("a")
    (line,) = receivers.list_deliveries("team-a", words="ops")
    assert (line.receiver, line.notice, line.subject, line.outcome) == (made.id, "cancelled", "a", None)
    with record.transaction(Scope.everything) as session:
        record_try(session, line.id, Try(fault="the channel refused it"))
        record_try(session, line.id, Try())
    (line,) = receivers.list_deliveries()
    assert (line.outcome, [one.get("fault") for one in line.tries]) == ("delivered", ["the channel refused it", None])
    assert receivers.redeliver(line.id, tenant="team-a").outcome is None
    for number, tenant in ((line.id, "team-b"), (0, None), (2**40, None)):
        with pytest.raises(NotFoundError):
            receivers.redeliver(number, tenant=tenant)


def test_a_sample_reaches_a_channel(record, hooks):
    hooks.status = 200
    receivers.add_channel("team-a", "ops", f"ntfy://{hooks.host}/topic", notices=[Notice.DONE])
    assert receivers.try_out("team-a", "ops").fault == ""
    assert b"a test of celora" in hooks.got[0][2]


def test_the_record_holds_no_address_of_a_channel(record):
    receivers.add_channel("team-a", "ops", URL, notices=[Notice.DONE])
    with record.session(Scope.everything) as session:
        assert "secret-word" not in str(vars(session.scalars(select(Receiver)).one()))
