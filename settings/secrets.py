"""Keeps secrets (hub tokens, tracker keys) by name in files of mode 600 below the home of the installation.

The installation has one file, and so has each tenant; the tenant ``default`` is the installation itself. Jobs,
messages, events and logs carry only names. A value enters the environment of the one process that needs it; therefore
the names are those of environment variables.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import NotFoundError, SettingsError, StorageError
from ..storage.file_lock import locked
from .permissions import make_private

FILE = "secrets.json"
TENANTS = "secrets"
"""The folder of the tenants' files, named after them."""
INSTALLATION = "default"
"""The tenant of the installation itself, whose jobs get its secrets."""
NAME_PATTERN = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class Secrets:
    """The secrets of one installation, or of one of its tenants.

    Args:
        home: The home of the installation, which holds ``secrets.json``.
        tenant: The tenant; the installation unless given.
    """

    def __init__(self, home: Path, tenant: str = INSTALLATION) -> None:
        self.path = home / FILE if tenant == INSTALLATION else home / TENANTS / f"{tenant}.json"

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._read())

    def get(self, name: str) -> str | None:
        """Return the value of a name; None where it is not set."""
        return self._read().get(name)

    def set(self, name: str, value: str) -> None:
        """Set or replace a value.

        Raises:
            SettingsError: The name cannot name an environment variable, or the value is empty or has a line break.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise SettingsError(
                f"{name!r} can't name a secret.",
                hint="Use an environment variable's name: capital letters, digits and _, at most 64, e.g. HF_TOKEN.",
            )
        if not value or any(character in value for character in "\0\r\n"):
            raise SettingsError(
                f"the value for the secret {name} is empty or holds a line break.",
                hint=f"Give it as one line: celora secret set {name}",
            )
        with self._changed() as secrets:
            secrets[name] = value

    def obtain(self, name: str, make: Callable[[], str]) -> str:
        """Return the value of a name; where it is not set, set the value that ``make`` returns, in one process."""
        known = self.get(name)
        if known is not None:
            return known
        with self._changed() as secrets:
            return secrets.setdefault(name, make())

    def remove(self, name: str) -> None:
        """Remove a secret.

        Raises:
            NotFoundError: No secret has that name.
        """
        with self._changed() as secrets:
            if name not in secrets:
                raise NotFoundError(f"there is no secret named {name}.", hint="List them: celora secret list")
            del secrets[name]

    def environment(self, *names: str) -> dict[str, str]:
        """Return the named secrets that are set, as environment variables of a child process."""
        secrets = self._read()
        return {name: secrets[name] for name in names if name in secrets}

    def clear(self) -> None:
        """Remove all secrets with their file, as when a tenant is deleted."""
        with locked(self.path.with_suffix(".lock")):
            self.path.unlink(missing_ok=True)

    @contextmanager
    def _changed(self) -> Generator[dict[str, str]]:
        """Yield the secrets for a change, then write them to a new file and rename it; one process at a time."""
        if self.path.parent.name == TENANTS:
            make_private(self.path.parent)
        with locked(self.path.with_suffix(".lock")):
            secrets = self._read()
            yield secrets
            self._write(secrets)

    def _read(self) -> dict[str, str]:
        try:
            content: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StorageError(
                f"the secrets file {self.path} can't be read ({error}).", hint="Mend it or move it away."
            ) from error
        if not isinstance(content, dict):
            raise StorageError(f"the secrets file {self.path} holds no JSON object.", hint="Mend it or move it away.")
        return {str(name): str(value) for name, value in content.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]

    def _write(self, secrets: dict[str, str]) -> None:
        handle, aside = tempfile.mkstemp(prefix=".secrets-", dir=self.path.parent)  # mkstemp: mode 600 from the start
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(secrets, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            Path(aside).replace(self.path)
        except OSError as error:
            Path(aside).unlink(missing_ok=True)
            raise StorageError(f"the secrets file {self.path} can't be written ({error}).") from error


def secrets_of_job(
    home: Path, tenant: str, names: list[str], environment: Mapping[str, str], *, shared: Collection[str] = ()
) -> dict[str, str]:
    """Return the named secrets that a tenant's job may have.

    They are the tenant's own. The installation's, stored ones before those of its environment, are for the jobs of the
    tenant ``default``, and for the others where the installation shares them by name.
    """
    own = Secrets(home, tenant).environment(*names)
    allowed = [name for name in names if tenant == INSTALLATION or name in shared]
    stored = Secrets(home).environment(*allowed)
    ours = {name: value for name in allowed if (value := stored.get(name) or environment.get(name, ""))}
    return {**ours, **own}


def all_values(home: Path) -> set[str]:
    """Return the values of all secrets, the installation's and the tenants'; for a redactor."""
    tenants = [file.stem for file in (home / TENANTS).glob("*.json")]
    stores = [Secrets(home), *(Secrets(home, tenant) for tenant in tenants if tenant != INSTALLATION)]
    return {value for store in stores for value in store.environment(*store.names()).values()}
