"""The commands are built when they are looked up, and each place in the table leads to a command."""

import pytest

from celora.cli.command_table import TABLE, Entry, LazyCommands


def test_every_place_of_the_table_leads_to_a_command_of_its_name():
    commands = LazyCommands(TABLE)
    assert {name: command.name for name, command in commands.items()} == {name: name for name in TABLE}
    assert {name: command.rich_help_panel for name, command in commands.items()} == {
        name: entry.panel for name, entry in TABLE.items()
    }


def test_a_command_is_built_once_and_the_names_are_known_before():
    commands = LazyCommands({"list": Entry("Jobs", "jobs:list_"), "broken": Entry("Jobs", "no_module_of_this_name:x")})
    assert list(commands) == ["list", "broken"]
    assert commands["list"] is commands.get("list")
    assert commands.get("unknown") is None
    with pytest.raises(ModuleNotFoundError):
        commands["broken"]


def test_a_command_of_the_table_stays():
    commands = LazyCommands(TABLE)
    with pytest.raises(TypeError, match="the command list belongs to the table"):
        del commands["list"]
    commands["more"] = commands["list"]
    assert ("more" in commands, len(commands)) == (True, len(TABLE) + 1)
