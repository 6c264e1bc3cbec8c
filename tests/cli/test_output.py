import json
from datetime import UTC, datetime

import pytest

from celora.cli import output


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "-"), (0.4, "0 s"), (48, "48 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_read_as_people_say_them(seconds, words):
    assert output.duration(seconds) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"), [(None, "-"), (512, "512 B"), (1536, "1.5 KiB"), (3 * 2**40, "3.0 TiB")]
)
def test_sizes_have_binary_units(size_bytes, words):
    assert output.size(size_bytes) == words


def test_a_small_job_costs_something():
    assert [output.money(amount) for amount in (None, 0.0042, 12)] == ["-", "$0.0042", "$12.00"]


def test_a_cell_is_never_taken_for_markup(capsys):
    output.console().print(output.table(["x"], [["[red]a[/red]"], [None], [0.123456]]))
    assert capsys.readouterr().out.split() == ["x", "[red]a[/red]", "-", "0.1235"]


def test_json_takes_times_and_umlauts(capsys):
    output.print_json({"at": datetime(2026, 11, 24, tzinfo=UTC), "name": "Jürgen"})
    printed = capsys.readouterr().out
    assert "Jürgen" in printed
    assert json.loads(printed)["at"] == "2026-11-24T00:00:00+00:00"


HOSTILE = "a\x1b]0;title\x07b\x9bc\u202ed\x7fe\x00f"


def test_no_control_character_of_a_text_reaches_the_terminal(capsys):
    output.say(HOSTILE)
    output.say(HOSTILE, err=True)
    output.console().print(HOSTILE, markup=False)
    output.progress_console().print(HOSTILE, markup=False)
    output.console().print(output.table(["x"], [[HOSTILE]], title=HOSTILE))
    printed = "".join(capsys.readouterr())
    assert printed.count(r"a\x1b]0;title\x07b\x9bc\u202ed\x7fe\x00f") == 6
    assert [letter for letter in printed if output.CONTROL.match(letter)] == []


def test_lines_tabs_and_other_scripts_stay_as_they_are():
    text = "ä\tb\r\nไทย\n日本語 \u200d"
    assert output.printable(text) == text


def test_json_carries_control_characters_as_escapes_of_the_same_value(capsys):
    output.print_json({"user": HOSTILE})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"user": HOSTILE}
    assert [letter for letter in printed if output.CONTROL.match(letter)] == []
