import errno
import sys

import pytest
import typer
import typer.main

from celora.cli import app as app_module
from celora.cli.app import app
from celora.errors import NotFoundError
from celora.settings.settings import get_settings


def commands():
    def walk(command, path):
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, [*path, name])

    return list(walk(typer.main.get_command(app), []))


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words) or "celora")
def test_every_command_shows_an_example(celora, words):
    result = celora(*words, "--help")
    assert result.exit_code == 0
    assert "Example: celora" in result.stdout or ("Example: CELORA_" in result.stdout and words == ["node"])


def test_the_commands_are_those_that_programs_build_on():
    names = {" ".join(words) for words in commands()}
    contract = "demo up node submit status list logs cancel evaluate workers queues adapters pull generate guide"
    assert {*contract.split(), "bases add", "bases remove", "secret set", "secret list", "secret remove"} <= names


def test_it_tells_its_version(celora):
    assert celora("--version").stdout.startswith("celora 0.")


def test_a_command_that_does_not_exist_is_a_usage_error(celora):
    result = celora("trian")
    assert result.exit_code == 2
    assert "trian" in result.stderr


@pytest.fixture
def failing(monkeypatch):
    """Makes ``celora guide`` raise."""

    def raises(error):
        def stopped(_tables):
            raise error

        monkeypatch.setattr("celora.cli.guide.print_json", stopped)

    return raises


def test_an_error_of_ours_is_one_sentence_and_its_exit_code(celora, failing):
    failing(NotFoundError("there is no job x.", hint="See `celora list`."))
    result = celora("guide", "--json")
    assert result.exit_code == 66
    assert result.stderr == "celora: there is no job x. See `celora list`.\n"
    assert result.stdout == ""


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_where_an_error_came_from(celora, failing, place):
    failing(NotFoundError("there is no job x."))
    words = ["--debug", "guide", "--json"] if place == "first" else ["guide", "--json", "--debug"]
    result = celora(*words)
    assert result.exit_code == 66
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("celora: there is no job x.\n")


def test_a_full_disk_is_told_as_one(celora, failing):
    failing(OSError(errno.ENOSPC, "No space left on device", "/data/file"))
    result = celora("guide", "--json")
    assert result.exit_code == 73
    assert "/data/file: no space is left. Free some" in result.stderr


def test_a_fault_of_ours_is_told_without_a_traceback(celora, failing):
    failing(RuntimeError("oh"))
    result = celora("guide", "--json")
    assert result.exit_code == 70
    assert result.stderr == "celora: a fault of celora itself: RuntimeError: oh (--debug shows where)\n"


def test_an_interruption_exits_as_shells_expect(celora, failing):
    failing(KeyboardInterrupt())
    assert celora("guide", "--json").exit_code == 130


def test_main_is_the_application(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["celora", "--version"])
    with pytest.raises(SystemExit) as ended:
        app_module.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("celora ")


def test_a_record_that_cannot_be_reached_is_told_in_a_sentence(celora, monkeypatch, tmp_path):
    monkeypatch.setenv("CELORA_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    get_settings.cache_clear()
    result = celora("list")
    assert result.exit_code == 69
    assert "can't be reached" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_setting_is_told_in_a_sentence(celora, monkeypatch):
    monkeypatch.setenv("CELORA_LEASE_S", "soon")
    get_settings.cache_clear()
    result = celora("list")
    assert result.exit_code == 64
    assert "lease_s" in result.stderr.lower()
    monkeypatch.delenv("CELORA_LEASE_S")
    get_settings.cache_clear()
