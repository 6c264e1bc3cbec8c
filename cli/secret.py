"""``celora secret``: hub tokens and tracker keys, by name.

A value is asked for or read from standard input, never an argument, so that it stays out of the shell's history and the
process list.
"""

import sys
from typing import Annotated

import typer

from ..settings.secrets import Secrets
from ..settings.settings import get_settings
from .output import Json, print_json

app = typer.Typer(no_args_is_help=True, help="Hub tokens and tracker keys, by name.\n\nExample: `celora secret list`")
Name = Annotated[str, typer.Argument(help="An environment variable's name, e.g. HF_TOKEN.")]


def _secrets() -> Secrets:
    return Secrets(get_settings().home)


@app.command("set")
def set_(name: Name) -> None:
    """Set a secret; its value is asked for, or read from standard input.

    Example: `celora secret set HF_TOKEN < token.txt`
    """
    value = typer.prompt(f"{name}", hide_input=True) if sys.stdin.isatty() else sys.stdin.read().strip()
    _secrets().set(name, value)
    typer.echo(f"{name} is set.")


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the names that are set; values are never shown.

    Example: `celora secret list --json`
    """
    names = _secrets().names()
    if as_json:
        print_json(names)
    else:
        typer.echo("\n".join(names) or "No secret is set. Set one: celora secret set HF_TOKEN")


@app.command("remove")
def remove(name: Name) -> None:
    """Forget a secret.

    Example: `celora secret remove HF_TOKEN`
    """
    _secrets().remove(name)
    typer.echo(f"{name} is removed.")
