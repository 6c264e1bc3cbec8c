"""The command group of trainer hosts."""

from typer.testing import CliRunner

from celora.cli.app import app


def test_the_group_says_what_a_host_is_and_has_restart_as_a_command():
    told = CliRunner().invoke(app, ["host", "--help"], prog_name="celora").output
    assert "keeps a base between jobs" in told
    assert "restart" in told
