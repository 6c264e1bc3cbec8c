"""Runs the ``celora`` command: one Typer application, its commands in modules named by their noun.

Unusual: the module of a command is imported when the command is called (``command_table``). A command never prints a
traceback. Every error ends in one sentence on standard error and an exit code that states its kind (``errors``);
``--debug``, anywhere on the line, shows the traceback.
"""

import sys
import traceback
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import CeloraError, DiskFullError, StorageError
from ..storage.disk_space import is_no_space
from .command_table import TABLE, LazyCommands
from .output import say

INTERRUPTED = 130
INTERNAL = 70


class Sentences(TyperGroup):
    """Ends every command that fails in one sentence, and takes ``--debug`` wherever it stands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = LazyCommands(TABLE)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move ``--debug`` to the front, where the group's own options are read."""
        if "--debug" in args:
            args = ["--debug", *(word for word in args if word != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn what it raises into a sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except (CeloraError, OSError) as error:
            told = explained(error)
            _say(f"celora: {told}", ctx)
            raise typer.Exit(told.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):  # a usage error or an exit, Typer's to handle
                raise
            _say(f"celora: a fault of celora itself: {type(error).__name__}: {error} (--debug shows where)", ctx)
            raise typer.Exit(INTERNAL) from None


def explained(error: CeloraError | OSError) -> CeloraError:
    """The error itself, or what the operating system refused as one of ours."""
    if isinstance(error, CeloraError):
        return error
    where = f"{error.filename}: " if error.filename else ""
    if is_no_space(error):
        return DiskFullError(f"{where}no space is left.", hint="Free some, or move CELORA_HOME to a larger disk.")
    return StorageError(f"{where}{error.strerror or error}.")


def _say(sentence: str, ctx: Any) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc(file=sys.stderr)
    say(sentence, err=True)


app = typer.Typer(
    cls=Sentences,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001  (Typer calls it so)
    if wanted:
        say(f"celora {metadata.version('celora')}")
        raise typer.Exit


@app.callback()
def celora(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tuning as a service on your own GPUs.

    Example: `celora demo` trains a real language model in about five minutes; `celora up` starts the system.
    """


def main() -> None:
    """The ``celora`` command."""
    app()
