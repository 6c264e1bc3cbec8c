"""Sends messages to people's channels: mail, Slack, Teams, Discord, ntfy and others, through apprise.

A channel is one of apprise's URLs. It holds a token or a password, so it is a secret: it is stored encrypted, and no
message and no error shows more of it than its scheme. Only the schemes listed here are accepted, because others of
apprise run commands, show windows or send to any address; and none of the parameters that name a file.
"""

import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ...errors import SettingsError, UnavailableError
from ...models.notifications.deliveries import Try

SCHEMES = (
    "mailto", "mailtos", "slack", "discord", "workflow", "workflows", "ntfy", "ntfys", "tgram", "matrix", "matrixs",
    "mmost", "mmosts", "gchat", "pover", "gotify", "gotifys", "rocket", "rockets", "zulip",
)  # fmt: skip
"""Schemes of apprise that are accepted; ``workflows`` is Microsoft Teams."""
REFUSED = frozenset({
    "template", "pgp", "pgppub", "pgpprv", "wkd", "attach", "store", "config", "verify", "retry", "wait", "optional",
})  # fmt: skip
"""Parameters that name a file of this machine, keep something on its disk, leave a certificate unchecked, or repeat."""
LONGEST_URL = 2000
_HINT = "Look at https://github.com/caronc/apprise/wiki for the URL of each channel."


def check_channel(url: str) -> str:
    """Check the URL of a channel, and return its scheme.

    Raises:
        SettingsError: The scheme is not accepted, a parameter is refused, or apprise cannot read it.
        UnavailableError: apprise is not installed.
    """
    scheme, found, _ = url.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in SCHEMES or len(url) > LONGEST_URL:
        raise SettingsError(f"a channel is a URL of one of {', '.join(SCHEMES)}.", hint=_HINT)
    given = {name.lower().lstrip("+-:") for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    if wrong := sorted(given & REFUSED):
        raise SettingsError(f"the channel's URL has the parameter {wrong[0]}, which is refused.", hint="Leave it out.")
    if not _apprise().add(url):
        raise SettingsError(f"apprise cannot read the channel's URL ({scheme}://…).", hint=_HINT)
    return scheme


def send_to_channel(url: str, title: str, body: str) -> Try:
    """Send a message to a channel and return the result; a fault is a result."""
    began, fault = time.monotonic(), ""
    try:
        channel = _apprise()
        channel.add(url)
        if not channel.notify(title=title, body=body):
            fault = "the channel cannot be reached or refused the message; the log of the worker has the cause"
    except UnavailableError as error:
        fault = error.message
    except Exception as error:  # noqa: BLE001  (each of apprise's plugins has errors of its own)
        fault = f"the channel failed ({type(error).__name__})"
    return Try(fault=fault, seconds=time.monotonic() - began)


def _apprise() -> Any:
    try:
        import apprise  # noqa: PLC0415  (of the extra notify; takes long to import)
    except ImportError as error:
        raise UnavailableError(
            "channels need a part that is not installed.", hint="Run: pip install 'celora[notify]'"
        ) from error
    asset = apprise.AppriseAsset(app_id="celora", app_desc="celora", storage_mode="memory", async_mode=False)
    return apprise.Apprise(asset=asset)
