"""Defines ``celora secret``, which stores hub tokens and tracker keys by name.

A value is prompted for or read from standard input, never an argument, so that it stays out of the shell's history and
the process list.
"""

import sys
from typing import Annotated

import typer

from ..settings.secrets import INSTALLATION
from .open_record import record
from .output import Json, print_json, say

app = typer.Typer(no_args_is_help=True, help="Hub tokens and tracker keys, by name.\n\nExample: `celora secret list`")
Name = Annotated[str, typer.Argument(help="An environment variable's name, e.g. HF_TOKEN.")]
Of = Annotated[str, typer.Option(help="Whose it is; those of the tenant default are the installation's.")]


@app.command("set")
def set_(name: Name, *, tenant: Of = INSTALLATION) -> None:
    """Set a secret; its value is asked for, or read from standard input.

    The jobs of a tenant get its own secrets, and of the installation's those that CELORA_SHARED_SECRETS names.

    Example: `celora secret set HF_TOKEN < token.txt`
    """
    from ..services.tenants import secrets  # noqa: PLC0415  (only this group needs it)

    value = typer.prompt(f"{name}", hide_input=True) if sys.stdin.isatty() else sys.stdin.read().strip()
    record()
    secrets.set_secret(name, value, tenant=tenant)
    say(f"{name} is set{_of(tenant)}.")


@app.command("list")
def list_(*, tenant: Of = INSTALLATION, as_json: Json = False) -> None:
    """List the names that are set; values are never shown.

    Example: `celora secret list --json`
    """
    from ..services.tenants import secrets  # noqa: PLC0415  (only this group needs it)

    names = secrets.list_secrets(tenant=tenant)
    if as_json:
        print_json(names)
    else:
        say("\n".join(names) or "No secret is set. Set one: celora secret set HF_TOKEN")


@app.command("remove")
def remove(name: Name, *, tenant: Of = INSTALLATION) -> None:
    """Forget a secret.

    Example: `celora secret remove HF_TOKEN`
    """
    from ..services.tenants import secrets  # noqa: PLC0415  (only this group needs it)

    record()
    secrets.remove_secret(name, tenant=tenant)
    say(f"{name} is removed{_of(tenant)}.")


def _of(tenant: str) -> str:
    return "" if tenant == INSTALLATION else f" for tenant {tenant}"
