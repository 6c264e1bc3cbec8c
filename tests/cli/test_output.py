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
