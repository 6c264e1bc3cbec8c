"""docs/commands.md, which is written from the application itself."""

import os
import re
from enum import Enum
from pathlib import Path

import typer.main

from celora.cli.app import app

PAGE = Path(__file__).parent.parent.parent / "docs" / "commands.md"
HEAD = """\
# Commands

Written by `WRITE_DOCS=1 make test ARGS=tests/cli/test_reference.py`; a test compares it with the code. `celora COMMAND
--help` says the same. Every command takes `--debug`, which shows where an error came from; where a command prints data,
`--json` prints it for programs. A command that fails ends in one sentence on standard error and an exit code that says
its kind: 64 settings, 65 data, 66 not found, 69 a missing or unavailable part, 70 training or a fault of celora itself,
73 disk, 74 storage, 75 asked to leave, 77 not allowed (a key, or a limit of the tenant), 130 interrupted or cancelled.
"""


def reference_page():
    lines = [HEAD]
    root = typer.main.get_command(app)
    panels = {}
    for name, command in root.commands.items():
        panels.setdefault(command.rich_help_panel, []).append((name, command))
    for panel, commands in panels.items():
        lines += [f"## {panel}", ""]
        for name, command in commands:
            lines += section(f"celora {name}", command)
            for child, subcommand in getattr(command, "commands", {}).items():
                lines += section(f"celora {name} {child}", subcommand)
    return "\n".join(lines).rstrip() + "\n"


def section(title, command):
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    of_a_job = [parameter for parameter in shown if getattr(parameter, "rich_help_panel", "") in JOB_PANELS]
    own = [parameter for parameter in shown if parameter not in of_a_job and parameter.name != "help"]
    usage = " ".join([title, *(word_of(parameter) for parameter in own)])
    lines = [f"### {title}", "", command.help or "", "", f"    {usage}{' [FIELD OPTIONS]' if of_a_job else ''}", ""]
    rows = [f"| `{names_of(parameter)}` | {told(parameter)} |" for parameter in own if parameter.help]
    if rows:
        lines += ["| | |", "|---|---|", *rows, ""]
    if of_a_job:
        lines += ["Every field of a job is an option as well: [the fields](settings.md#of-a-job).", ""]
    return lines


JOB_PANELS = ("What to train", "How to train")


def word_of(parameter):
    if parameter.param_type_name == "argument":
        return metavar(parameter) if parameter.required else f"[{metavar(parameter)}]"
    value = "" if parameter.is_flag else f" {metavar(parameter)}"
    return (
        f"{max(parameter.opts, key=len)}{value}" if parameter.required else f"[{max(parameter.opts, key=len)}{value}]"
    )


def metavar(parameter):
    """The word that stands for a value, without the brackets of what may be left out."""
    if parameter.metavar:
        return parameter.metavar.strip("[]")
    kind = getattr(parameter.type_descriptor, "annotation", str)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(member.value) for member in kind)
    return parameter.name.upper() if parameter.param_type_name == "argument" else NAMES.get(kind, "TEXT")


NAMES = {int: "NUMBER", float: "NUMBER", Path: "PATH"}


def names_of(parameter):
    return metavar(parameter) if parameter.param_type_name == "argument" else ", ".join(parameter.opts)


def told(parameter):
    about = " ".join(parameter.help.split()).replace("|", "\\|")
    default = getattr(parameter.default, "value", parameter.default)
    shown = getattr(parameter, "show_default", True) and default not in (None, False, "", ()) and not callable(default)
    return f"{about} (default: `{default}`)" if shown else about


def test_every_command_is_documented():
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(reference_page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == reference_page(), "write it anew with WRITE_DOCS=1"


def test_every_command_says_what_it_does_with_an_example():
    sections = dict(part.split("\n", 1) for part in reference_page().split("\n### ")[1:])
    examples = {title: re.findall(r"^Example: .*$", text, flags=re.MULTILINE) for title, text in sections.items()}
    assert len(examples) > 40
    assert [title for title, lines in examples.items() if not any(title in line for line in lines)] == []
