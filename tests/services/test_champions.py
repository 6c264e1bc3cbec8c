"""Champions are moved by hand and back; the alias follows, and each change is told once to the operator's command."""

import fcntl
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from competition import alias, pointer, right
from sqlalchemy import update

from celora.errors import NotFoundError, SettingsError
from celora.models import champions as record_of
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Adapter
from celora.models.tables.champion import ChampionEvent
from celora.services import champions
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts


def test_by_hand_anything_published_is_champion_and_nothing_else(competition, contestant):
    contestant("plain", {"base": right(0), "tuned": right(1)})
    now = champions.promote("new", "plain", reason="reviewed", by="ada")
    assert (now["job"], now["version"]) == ("plain", 1)
    assert champions.current("new")["adapter"] == now["adapter"]
    with pytest.raises(SettingsError, match="is champion new already"):
        champions.promote("new", "plain")
    with pytest.raises(NotFoundError, match="there is no job nobody"):
        champions.promote("new", "nobody")
    with pytest.raises(SettingsError, match="cannot be a champion's name"):
        champions.promote("../new", "plain")
    with pytest.raises(SettingsError, match="has no earlier adapter to go back to"):
        champions.rollback("new")
    with get_database().session(Scope.everything) as session:
        uri = session.get_one(Adapter, "plain").uri
    Artifacts(get_settings().artifacts).remove(uri)
    with pytest.raises(NotFoundError, match="the adapter of job plain is gone"):
        champions.promote("other", "plain")


def test_an_alias_that_is_missing_or_wrong_is_mended(challenger):
    challenger("first", 5)
    path = get_settings().home / "artifacts" / "champions" / "default" / "bot.json"
    whole = path.read_text()
    assert champions.mend(get_database(), get_settings()) == 0
    path.write_text('{"job": "somebody"}')
    assert champions.mend(get_database(), get_settings()) == 1
    assert path.read_text() == whole
    path.unlink()
    assert champions.mend(get_database(), get_settings()) == 1
    assert path.read_text() == whole


def test_a_writer_of_the_alias_that_is_overtaken_writes_again(challenger, monkeypatch):
    challenger("first", 5)
    challenger("second", 15, champion=5, met="first")
    put, overtaken = Artifacts.put_file, []

    def slow(self, path, uri):
        put(self, path, uri)
        if not overtaken:
            overtaken.append(True)
            champions.rollback("bot")

    monkeypatch.setattr(Artifacts, "put_file", slow)
    assert champions.write_alias(get_database(), get_settings(), "default", "bot")["job"] == "first"
    assert alias()["job"] == "first"


def facts(**more):
    return {"name": "bot", "tenant": "default", "kind": "promoted", "version": 3, "job": "j", "adapter": "file:///a",
            "before": None, "reason": "; rm -rf /", "by": "", "at": "now", **more}  # fmt: skip


def test_the_command_gets_the_facts_and_no_shell(tmp_path):
    program = (
        "import json,os,sys; json.dump([json.load(sys.stdin), dict(os.environ), sys.argv[2]], open(sys.argv[1], 'w'))"
    )
    out = tmp_path / "said.json"
    assert champions.run_command([sys.executable, "-c", program, str(out), "$HOME; echo"], facts(), 20) is None
    told, environment, word = json.loads(out.read_text())
    assert told == facts()
    assert word == "$HOME; echo"
    assert environment["CELORA_CHAMPION_REASON"] == "; rm -rf /"
    assert (environment["CELORA_CHAMPION_VERSION"], environment["CELORA_CHAMPION_BEFORE"]) == ("3", "")


def test_a_command_that_fails_or_is_not_there_says_so(tmp_path):
    failing = [sys.executable, "-S", "-c", "print('no such  bot'); raise SystemExit(3)"]
    assert champions.run_command(failing, facts(), 60) == f"{sys.executable} ended with 3: no such bot"
    assert champions.run_command([str(tmp_path / "nothing")], facts(), 60).endswith(
        "nothing can't be run: No such file or directory"
    )


def test_a_command_that_does_not_read_the_facts_may_succeed():
    """A reason of a megabyte fits into no pipe and into no environment."""
    assert champions.run_command(["true"], facts(reason="x" * 10**6), 60) is None


def test_of_a_long_output_the_end_is_kept():
    command = [sys.executable, "-S", "-c", "print('a' * 10**6, 'the end'); raise SystemExit(1)"]
    fault = champions.run_command(command, facts(), 60)
    assert fault.endswith("a the end")
    assert len(fault) < 1000


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    """The lock is free again once every process that inherited it is gone."""
    lock = tmp_path / "lock"
    sleeper = f"import fcntl, os, time; fcntl.flock(os.open({str(lock)!r}, 64), 2); os.fork(); time.sleep(600)"
    fault = champions.run_command([sys.executable, "-S", "-c", sleeper], facts(), 1)
    assert fault == f"{sys.executable} took longer than 1 s and was ended"
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits, until the last of them has ended


def test_every_change_is_told_once_and_a_broken_command_is_in_the_history(challenger, monkeypatch, tmp_path):
    challenger("first", 5)
    out = tmp_path / "told"
    program = f"import sys; open({str(out)!r}, 'a').write(sys.stdin.read())"
    monkeypatch.setenv("CELORA_ON_PROMOTE", json.dumps([sys.executable, "-c", program]))
    get_settings.cache_clear()
    assert champions.tell(get_database(), get_settings()) == 1
    assert champions.tell(get_database(), get_settings()) == 0
    (told,) = out.read_text().splitlines()
    assert json.loads(told)["job"] == "first"
    monkeypatch.setenv("CELORA_ON_PROMOTE", json.dumps([sys.executable, "-c", "exit(1)"]))
    get_settings.cache_clear()
    challenger("second", 15, champion=5, met="first")
    assert champions.tell(get_database(), get_settings()) == 0
    with get_database().session(Scope.everything) as session:
        newest = record_of.events_of(session, "default", "bot")[0]
    assert (newest.told_at, newest.attempts) == (None, 1)
    assert newest.fault.endswith("ended with 1: ")


PROMOTE = "from celora.services import champions; champions.promote('bot', 'a')"
TELL = (
    "from celora.models.database import get_database; from celora.settings.settings import get_settings;"
    "from celora.services.champions import tell; tell(get_database(), get_settings())"
)


def killed_at(point, program):
    """Run a program that dies at a failpoint."""
    environment = {**os.environ, "CELORA_FAILPOINT": f"{point}:kill"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == -9


@pytest.mark.slow
def test_who_is_killed_after_moving_a_champion_leaves_its_alias_to_the_next_round(competition, contestant):
    contestant("a", {"base": right(0), "tuned": right(12)})
    killed_at("champion.moved", PROMOTE)
    assert (pointer(), alias()) == (("a", 1), None)
    assert champions.tell(get_database(), get_settings()) == 1
    assert alias()["job"] == "a"
    assert champions.tell(get_database(), get_settings()) == 0


@pytest.mark.slow
def test_who_is_killed_while_telling_a_change_is_followed_by_another_when_its_claim_is_over(competition, contestant):
    contestant("a", {"base": right(0), "tuned": right(12)})
    killed_at("champion.moved", PROMOTE)
    killed_at("champion.claimed", TELL)
    assert champions.tell(get_database(), get_settings()) == 0
    with get_database().transaction(Scope.everything) as session:
        session.execute(update(ChampionEvent).values(claimed_until=datetime.now(UTC) - timedelta(seconds=1)))
    assert champions.tell(get_database(), get_settings()) == 1
    assert alias()["job"] == "a"
