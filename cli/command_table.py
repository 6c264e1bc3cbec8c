"""Lists the commands, and imports the module of a command when the command is looked up.

A command loads what it prints and nothing else: importing all modules of ``cli/`` takes longer than a short command
runs. ``celora --help`` looks up every command, and so imports all of them.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
import typer.main

if TYPE_CHECKING:
    from typer._click import Command

RUN, JOBS, RESULTS, INSTALLATION = "Run it", "Jobs", "What came out", "The installation"
TENANTS = "Tenants"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of the application.

    Attributes:
        panel: The heading under which ``celora --help`` lists it.
        place: ``module:attribute`` of its function or of its Typer application, relative to ``cli/``.
        fields: True for a command that takes the fields of a job as options.
    """

    panel: str
    place: str
    fields: bool = False


TABLE = {
    "demo": Entry(RUN, "demo:demo"),
    "up": Entry(RUN, "node:up"),
    "node": Entry(RUN, "node:node"),
    "api": Entry(RUN, "api:api"),
    "run-job": Entry(RUN, "run_job:run_job"),
    "submit": Entry(JOBS, "submit:submit", fields=True),
    "check": Entry(JOBS, "check:check", fields=True),
    "status": Entry(JOBS, "jobs:status"),
    "receipt": Entry(JOBS, "check:receipt"),
    "list": Entry(JOBS, "jobs:list_"),
    "logs": Entry(JOBS, "jobs:logs"),
    "cancel": Entry(JOBS, "jobs:cancel"),
    "pause": Entry(JOBS, "operations:pause"),
    "resume": Entry(JOBS, "operations:resume"),
    "retry": Entry(JOBS, "operations:retry"),
    "queue": Entry(JOBS, "queue:queue"),
    "why": Entry(JOBS, "queue:why"),
    "set": Entry(JOBS, "queue:set_"),
    "evaluate": Entry(JOBS, "jobs:evaluate"),
    "adapters": Entry(RESULTS, "adapters:adapters"),
    "pull": Entry(RESULTS, "adapters:pull"),
    "generate": Entry(RESULTS, "adapters:generate"),
    "compare": Entry(RESULTS, "compare:compare"),
    "rate": Entry(RESULTS, "compare:rate"),
    "workers": Entry(INSTALLATION, "node:workers"),
    "queues": Entry(INSTALLATION, "node:queues"),
    "simulate": Entry(INSTALLATION, "simulate:simulate"),
    "drain": Entry(INSTALLATION, "operations:drain"),
    "cordon": Entry(INSTALLATION, "operations:cordon"),
    "uncordon": Entry(INSTALLATION, "operations:uncordon"),
    "host": Entry(INSTALLATION, "host:app"),
    "migrate": Entry(INSTALLATION, "node:migrate"),
    "import-openai": Entry(INSTALLATION, "import_openai:import_openai"),
    "migrate-data": Entry(INSTALLATION, "migrate_data:migrate_data"),
    "doctor": Entry(INSTALLATION, "doctor:doctor"),
    "alive": Entry(INSTALLATION, "alive:alive"),
    "metrics": Entry(INSTALLATION, "metrics:metrics"),
    "guide": Entry(RUN, "guide:guide"),
    "datasets": Entry(JOBS, "datasets:app"),
    "schedule": Entry(JOBS, "schedule:app"),
    "champion": Entry(RESULTS, "champion:app"),
    "bases": Entry(INSTALLATION, "bases:app"),
    "secret": Entry(INSTALLATION, "secret:app"),
    "notify": Entry(INSTALLATION, "notify:app"),
    "tenant": Entry(TENANTS, "tenant:app"),
    "key": Entry(TENANTS, "key:app"),
    "usage": Entry(TENANTS, "books:usage"),
    "audit": Entry(TENANTS, "books:audit"),
}
"""Every command by its name, in the order in which pages list them."""


class LazyCommands(MutableMapping[str, "Command"]):
    """Maps the names of a table to their commands; a command is built when it is looked up.

    Args:
        table: The commands by their names.
    """

    def __init__(self, table: Mapping[str, Entry]) -> None:
        self._table = table
        self._built: dict[str, Command] = {}

    def __getitem__(self, name: str) -> "Command":
        if name not in self._built:
            self._built[name] = _build(name, self._table[name])
        return self._built[name]

    def __setitem__(self, name: str, command: "Command") -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"the command {name} belongs to the table and stays")

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._table, *self._built]))

    def __len__(self) -> int:
        return len({*self._table, *self._built})


def _build(name: str, entry: Entry) -> "Command":
    """Import the module of a command, and let Typer build the command."""
    module, _, attribute = entry.place.partition(":")
    target: Any = getattr(import_module(f".{module}", __package__), attribute)
    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    if isinstance(target, typer.Typer):
        one.add_typer(target, name=name, rich_help_panel=entry.panel)
    else:
        settings = {"ignore_unknown_options": True} if entry.fields else None
        one.command(name, rich_help_panel=entry.panel, context_settings=settings)(target)
    return typer.main.get_group(one).commands[name]
