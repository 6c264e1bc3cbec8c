"""Writes the access rules of the broker's users: applications, celora's own processes, and the operator.

From version 7 on, Redis and Valkey can permit one command on some keys (selectors), also for reads or writes alone.
The rules were derived from the sources of kombu and Celery and tried with ``ACL DRYRUN``. Tests with live installations
fail on every command that the server refused (``ACL LOG``).

A key pattern of these servers can permit keys, and cannot exclude them. An application may use all keys but celora's
own, so its patterns are the complement of celora's names, written out prefix by prefix.

``python -m celora.workers.node.broker_roles`` prints the commands that give a server these users, with the names and
the passwords (hashed) of ``CELORA_BROKER_URL`` and ``CELORA_WORKER_BROKER_URL``.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from ...errors import CeloraError, SettingsError
from ...settings.settings import Settings, load_settings
from .. import queues

LEAST = (7, 0)
"""The oldest version of a server with selectors."""
APPLICATION, WORKER, OPERATOR = "default", "celora-worker", "celora-operator"
"""Names of the users. The application is the server's default user, so that a URL with a password alone stays valid."""
PRIORITIES = "[^!-~]*"
"""End of the lists of other priorities: kombu appends two control characters and the number to the queue's name."""
GPU = queues.gpu_queue("")
OWN: Mapping[str, str] = {queues.ENTRY: "[!--/-~]*", queues.PREP: "[!-~]*", GPU: ""}
"""Prefixes of celora's own keys, each with the pattern of continuations that make a key foreign: ``celora-shop`` is
foreign; ``celora.unacked`` and the lists of other priorities of ``celora`` are not."""


@dataclass(frozen=True)
class Role:
    """A user of the broker.

    Attributes:
        user: Its name.
        rules: Commands, keys and channels that the user may use, in the syntax of ``ACL SETUSER``.
    """

    user: str
    rules: tuple[str, ...]

    def line(self, password: str) -> str:
        """Return the user with this password as a line of the server's configuration or ACL file."""
        return f"user {self._definition(password)}"

    def command(self, password: str) -> str:
        """Return the command that creates or changes the user."""
        return f"ACL SETUSER {self._definition(password)}"

    def _definition(self, password: str) -> str:
        digest = hashlib.sha256(password.encode()).hexdigest()
        return " ".join((self.user, "reset", "on", f"#{digest}", *self.rules))


def outside(own: Mapping[str, str]) -> list[str]:
    """Build the key patterns of all keys that do not begin with one of these words.

    Args:
        own: Each word, and the pattern of continuations that are permitted too; empty where none is.

    Example:
        ``outside({"ab": ""})`` is ``["~[^a]*", "~a", "~a[^b]*"]``.
    """
    patterns: list[str] = []
    for head in sorted({word[:length] for word in own for length in range(len(word))}):
        following = "".join(sorted({word[len(head)] for word in own if word.startswith(head)}))
        patterns += [f"~{head}"] if head else []
        patterns.append(f"~{head}[^{following}]*")
    return patterns + [f"~{word}{more}" for word, more in own.items() if more]


HARMLESS = ("&*", "+@all", "-@admin", "-@dangerous", "-function", "-script|flush", "-script|kill", "+info")
"""Commands that change neither the server nor other clients. Channels carry events, results and remote commands."""
SENDS_ONLY = "+lpush +llen +exists"
"""Commands by which kombu sends to a queue; none of them reads or deletes a message."""


def application() -> Role:
    """Build the role that sends to ``celora``, reads results, publishes commands and uses every key but celora's."""
    entry = f"({SENDS_ONLY} %W~{queues.ENTRY} %W~{queues.ENTRY}{PRIORITIES})"
    return Role(APPLICATION, (*HARMLESS, *outside(OWN), entry))


def worker() -> Role:
    """Build the role that reads celora's queues, writes results and events, and sends to any queue of a caller."""
    lists = [f"~{name}{end}" for name in (queues.ENTRY, queues.PREP) for end in ("", PRIORITIES)]
    own = (*lists, f"~{queues.ENTRY}.*", f"~{GPU}*")
    replies = ("~*.celery.pidbox", f"~*.celery.pidbox{PRIORITIES}")
    celery = ("~_kombu.*", "~celery-task-meta-*", "~celery-taskset-meta-*", *replies, "~celeryev*")
    return Role(WORKER, (*HARMLESS, "+config|get", *own, *celery, f"({SENDS_ONLY} %W~*)"))


def operator() -> Role:
    """Build the role that may run every command, the server's shutdown included."""
    return Role(OPERATOR, ("~*", "&*", "+@all"))


def commands(settings: Settings) -> dict[str, str]:
    """Build the commands that create the two users of the settings on a server, by role.

    Raises:
        SettingsError: A URL is not set or has no password, or both name the same user.
    """
    found: dict[str, str] = {}
    users: set[str] = set()
    for name, role, url in (
        ("application", application(), settings.broker_url),
        ("worker", worker(), settings.worker_broker_url),
    ):
        parts = urlsplit(url)
        if not parts.password:
            variable = "CELORA_BROKER_URL" if name == "application" else "CELORA_WORKER_BROKER_URL"
            raise SettingsError(
                f"{variable} has no password.", hint=f"Set it to redis://{role.user}:PASSWORD@HOST:6379/0."
            )
        named = replace(role, user=unquote(parts.username or "") or APPLICATION)
        users.add(named.user)
        found[name] = named.command(unquote(parts.password))
    if len(users) < len(found):
        raise SettingsError(
            f"applications and workers have the same user, {users.pop()}.",
            hint="Put another user into CELORA_WORKER_BROKER_URL: redis://celora-worker:PASSWORD@HOST:6379/0.",
        )
    return found


def main() -> None:
    """Print the commands of the roles that are named on the command line; of all roles by default."""
    try:
        found = commands(load_settings())
    except CeloraError as error:
        sys.exit(f"celora: {error}")
    for name in sys.argv[1:] or found:
        if name not in found:
            sys.exit(f"celora: there is no role {name}. Use application or worker.")
        sys.stdout.write(found[name] + "\n")


if __name__ == "__main__":
    main()
