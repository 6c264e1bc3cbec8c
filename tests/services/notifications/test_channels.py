"""Channels: schemes that are listed alone, no parameter that reads a file, and no secret in a message."""

import sys

import pytest

from celora.errors import SettingsError, UnavailableError
from celora.services.notifications.channels import SCHEMES, check_channel, send_to_channel

pytest.importorskip("apprise")


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("mailtos://ada:secret-word@mail.example.org?to=team@example.org", "mailtos"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general", "slack"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "discord"),
        ("ntfys://token@ntfy.example.org/topic", "ntfys"),
        ("workflows://prod-NO.westeurope.logic.azure.com:443/WorkflowID/Signature/", "workflows"),
        ("tgram://123456789:abcdefg_hijklmnop/12315544/", "tgram"),
        ("Gotify://host.example.org/token", "gotify"),
    ],
)
def test_the_usual_channels_are_read(url, scheme):
    assert check_channel(url) == scheme


@pytest.mark.parametrize(
    "url",
    [
        "secret-word",
        "json://127.0.0.1/secret-word",
        "form://host/secret-word",
        "syslog://secret-word",
        "dbus://",
        "windows://",
        "apprise://host/secret-word",
        "file:///etc/secret-word",
        "slack://secret-word",
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ?template=/etc/secret-word",
        "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?TEMPLATE=secret-word",
        "mailto://ada:secret-word@example.org?pgppub=/etc/key",
        "ntfy://secret-word@host/topic?verify=no",
        "ntfy://host/" + "secret-word" * 400,
    ],
)
def test_what_could_run_or_read_something_is_refused_without_its_secret(url):
    with pytest.raises(SettingsError) as caught:
        check_channel(url)
    assert "secret-word" not in str(caught.value)


def test_a_message_arrives_at_a_channel(hooks):
    hooks.status = 200
    result = send_to_channel(f"ntfy://{hooks.host}/topic", "job a failed", "Cause: line 2")
    assert (result.fault, len(hooks.got)) == ("", 1)
    assert b"job a failed" in hooks.got[0][2] + str(hooks.got[0][1]).encode()
    assert b"line 2" in hooks.got[0][2]


def test_a_channel_that_refuses_is_a_fault_without_its_secret(hooks):
    hooks.status = 403
    result = send_to_channel(f"ntfy://ada:secret-word@{hooks.host}/topic", "title", "body")
    assert result.fault
    assert "secret-word" not in result.fault


def test_a_missing_part_names_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UnavailableError, match="celora\\[notify\\]"):
        check_channel("ntfys://ntfy.sh/topic")
    assert "not installed" in send_to_channel("ntfys://ntfy.sh/topic", "t", "b").fault


def test_every_scheme_is_one_of_apprises():
    import apprise

    known = {scheme for plugin in apprise.Apprise().details()["schemas"] for scheme in
             (*(plugin["protocols"] or ()), *(plugin["secure_protocols"] or ()))}  # fmt: skip
    assert set(SCHEMES) <= known
