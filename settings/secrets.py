"""Secrets by name: hub tokens, tracker keys. They stay in one file of mode 600 below the installation's home.

A job, a message, an event and a log carry names only; the value enters the environment of the one process that needs
it. Names are environment variables' names for that reason.
"""

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import NotFoundError, SettingsError, StorageError

FILE = "secrets.json"
NAME_PATTERN = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class Secrets:
    """The secrets of one installation.

    Args:
        home: The installation's home; the file is ``secrets.json`` in it.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._read())

    def get(self, name: str) -> str | None:
        """The value of a name; None where it is not set."""
        return self._read().get(name)

    def set(self, name: str, value: str) -> None:
        """Set or replace a value.

        Raises:
            SettingsError: The name is no environment variable's name, or the value is empty or has a line break.
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

    def remove(self, name: str) -> None:
        """Forget a secret.

        Raises:
            NotFoundError: There is none of that name.
        """
        with self._changed() as secrets:
            if name not in secrets:
                raise NotFoundError(f"there is no secret named {name}.", hint="List them: celora secret list")
            del secrets[name]

    def environment(self, *names: str) -> dict[str, str]:
        """The named secrets that are set, as environment variables of a child process."""
        secrets = self._read()
        return {name: secrets[name] for name in names if name in secrets}

    @contextmanager
    def _changed(self) -> Generator[dict[str, str]]:
        """Read, let the caller change, write aside and rename; one process at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
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
