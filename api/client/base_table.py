"""Maps the models of another service to open bases by a table that people can edit."""

import fnmatch
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import SettingsError

SHIPPED = Path(__file__).with_name("openai_bases.toml")
TRAINED = "ft:"


@dataclass(frozen=True, kw_only=True)
class BaseTable:
    """Open bases by the models whose place they take.

    Attributes:
        given: Patterns of the person's own table.
        aliases: The installation's aliases.
        own: The names of bases that the installation has.
        shipped: Patterns of the table that comes with celora; not asked where a table is given.
    """

    given: Mapping[str, str]
    aliases: Mapping[str, str]
    own: Collection[str]
    shipped: Mapping[str, str]

    def find(self, model: str) -> str | None:
        """Find the base for a model; for a trained one, that for the model it was trained on. None without one."""
        name = model.split(":")[1] if model.startswith(TRAINED) and model.count(":") else model
        if found := _first(self.given, name):
            return found
        if name in self.aliases or name in self.own:
            return self.aliases.get(name, name)
        return _first(self.shipped, name)


def read_table(path: Path) -> dict[str, str]:
    """Read a table of bases by patterns.

    Raises:
        SettingsError: The file is missing, is no TOML, or has another form; the message says what to write.
    """
    form = f'Write [bases] and lines like "gpt-4o-mini*" = "BASE", as in {SHIPPED}.'
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the table {path} can't be read ({error}).", hint=form) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the table {path} is no TOML: {error}.", hint=form) from None
    bases = content.get("bases")
    if not isinstance(bases, dict) or set(content) != {"bases"}:
        raise SettingsError(f"the table {path} has another form than [bases].", hint=form)
    for pattern, base in bases.items():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(base, str) or not base.strip():
            raise SettingsError(f"the table {path} names no base for {pattern}.", hint=form)
    return bases  # pyright: ignore[reportUnknownVariableType]


def _first(patterns: Mapping[str, str], name: str) -> str | None:
    return next((base for pattern, base in patterns.items() if fnmatch.fnmatchcase(name, pattern)), None)
