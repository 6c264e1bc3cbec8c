"""The ``celora`` command: one Typer application, its commands in modules named by their noun.

Unusual: a command never prints a traceback. Whatever went wrong ends in one sentence on standard error and an exit code
that says its kind (``settings.errors``); ``--debug``, anywhere on the line, shows where it came from.
"""

import errno
import sys
import traceback
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..settings.errors import CeloraError, DiskFullError, StorageError
from . import (
    adapters,
    alive,
    bases,
    champion,
    compare,
    data,
    datasets,
    demo,
    doctor,
    guide,
    jobs,
    metrics,
    migrate_data,
    node,
    operations,
    run_job,
    schedule,
    secret,
    submit,
)

INTERRUPTED = 130
INTERNAL = 70


class Sentences(TyperGroup):
    """Ends every command that fails in one sentence, and takes ``--debug`` wherever it stands."""

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
    if error.errno == errno.ENOSPC:
        return DiskFullError(f"{where}no space is left.", hint="Free some, or move CELORA_HOME to a larger disk.")
    return StorageError(f"{where}{error.strerror or error}.")


def _say(sentence: str, ctx: Any) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc(file=sys.stderr)
    typer.echo(sentence, err=True)


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
        typer.echo(f"celora {metadata.version('celora')}")
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


RUN, JOBS, RESULTS, INSTALLATION = "Run it", "Jobs", "What came out", "The installation"

app.command(rich_help_panel=RUN)(demo.demo)
app.command(rich_help_panel=RUN)(node.up)
app.command(rich_help_panel=RUN)(node.node)
app.command(rich_help_panel=RUN)(run_job.run_job)
app.command("submit", rich_help_panel=JOBS, context_settings={"ignore_unknown_options": True})(submit.submit)
app.command("check", rich_help_panel=JOBS, context_settings={"ignore_unknown_options": True})(data.check)
app.command(rich_help_panel=JOBS)(jobs.status)
app.command(rich_help_panel=JOBS)(data.receipt)
app.command("list", rich_help_panel=JOBS)(jobs.list_)
app.command(rich_help_panel=JOBS)(jobs.logs)
app.command(rich_help_panel=JOBS)(jobs.cancel)
app.command(rich_help_panel=JOBS)(operations.pause)
app.command(rich_help_panel=JOBS)(operations.resume)
app.command(rich_help_panel=JOBS)(operations.retry)
app.command(rich_help_panel=JOBS)(jobs.evaluate)
app.add_typer(datasets.app, name="datasets", rich_help_panel=JOBS)
app.add_typer(schedule.app, name="schedule", rich_help_panel=JOBS)
app.command(rich_help_panel=RESULTS)(adapters.adapters)
app.command(rich_help_panel=RESULTS)(adapters.pull)
app.command(rich_help_panel=RESULTS)(adapters.generate)
app.command(rich_help_panel=RESULTS)(compare.compare)
app.command(rich_help_panel=RESULTS)(compare.rate)
app.add_typer(champion.app, name="champion", rich_help_panel=RESULTS)
app.command(rich_help_panel=INSTALLATION)(node.workers)
app.command(rich_help_panel=INSTALLATION)(node.queues)
app.command(rich_help_panel=INSTALLATION)(operations.drain)
app.command(rich_help_panel=INSTALLATION)(operations.cordon)
app.command(rich_help_panel=INSTALLATION)(operations.uncordon)
app.command(rich_help_panel=INSTALLATION)(node.migrate)
app.command(rich_help_panel=INSTALLATION)(migrate_data.migrate_data)
app.command(rich_help_panel=INSTALLATION)(doctor.doctor)
app.command(rich_help_panel=INSTALLATION)(alive.alive)
app.command(rich_help_panel=INSTALLATION)(metrics.metrics)
app.add_typer(bases.app, name="bases", rich_help_panel=INSTALLATION)
app.add_typer(secret.app, name="secret", rich_help_panel=INSTALLATION)
app.command(rich_help_panel=RUN)(guide.guide)


def main() -> None:
    """The ``celora`` command."""
    app()
