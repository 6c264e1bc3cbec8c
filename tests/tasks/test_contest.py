"""What becomes of a challenge when a job is published, judged again, or overtaken; by the rows that were answered."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from celora.models import champions as record_of
from celora.models import history, ratings
from celora.models.champion_tables import ChampionEvent
from celora.models.database import get_database
from celora.models.tables import Adapter
from celora.settings.errors import NotFoundError, SettingsError
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

ROWS = 20


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    from celora.workers.broker import EmbeddedBroker

    server = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(autouse=True)
def installation(home, monkeypatch, broker):
    monkeypatch.setenv("CELORA_BROKER_URL", broker)
    get_settings.cache_clear()
    get_database().migrate()
    from celora.workers.celery import app, configuration

    app.conf.update(configuration(get_settings()))
    return home


def right(count):
    """Answers of which so many are right."""
    return [f"r{i}" if i < count else "wrong" for i in range(ROWS)]


@pytest.fixture
def challenger(contestant):
    """Makes a job that competes for ``bot`` and is judged as it is published."""
    from celora.tasks import contest

    def make(job_id, tuned, champion=None, met=None, **fields):
        answers = {"base": right(0), "tuned": right(tuned)} | ({"champion": right(champion)} if champion else {})
        known = {"name": "bot", "version": 1, "job": met, "compared": champion is not None, "reason": ""}
        contestant(job_id, answers, met=known, challenge=contest.challenge, champion="bot", **fields)
        contest.conclude(job_id)
        return outcome(job_id)

    return make


def outcome(job_id):
    with get_database().session() as session:
        return history.find(session, job_id).summary["champion"]


def pointer():
    with get_database().session() as session:
        found = record_of.find(session, "default", "bot")
        return (found.job_id, found.version) if found else None


def alias():
    path = get_settings().home / "artifacts" / "champions" / "default" / "bot.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_the_first_beats_the_base_a_worse_one_is_kept_out_and_a_better_one_is_promoted(challenger):
    first = challenger("first", 10)
    assert first["promote"]
    assert first["reason"].startswith("against the base: exact match +50.0 points")
    worse = challenger("worse", 5, champion=10, met="first")
    assert (worse["promote"], worse["against"]) == (False, "first")
    assert worse["reason"].startswith("against first: exact match \N{MINUS SIGN}25.0 points")
    assert (pointer(), alias()["job"]) == (("first", 1), "first")
    assert challenger("better", 18, champion=10, met="first")["promote"]
    assert (pointer(), alias()["job"], alias()["version"]) == (("better", 2), "better", 2)


def test_one_that_does_not_beat_the_base_leaves_the_name_without_a_champion(challenger):
    assert "no gain" in challenger("first", 0)["reason"]
    assert (pointer(), alias()) == (None, None)


def test_who_was_measured_against_a_former_champion_is_measured_again(challenger, monkeypatch):
    from celora.tasks import submission

    again = []
    monkeypatch.setattr(submission, "evaluate_again", again.append)
    challenger("first", 5)
    challenger("second", 12, champion=5, met="first")
    late = challenger("late", 18, champion=5, met="first")
    assert not late["promote"]
    assert late["reason"] == "the champion became second after this job was evaluated, so the two were not compared"
    assert again == ["late"]
    assert pointer() == ("second", 2)


def test_one_that_could_not_be_compared_says_why(challenger, contestant):
    from celora.tasks import contest

    challenger("first", 5)
    met = {
        "name": "bot",
        "version": 1,
        "job": "first",
        "compared": False,
        "reason": "the champion was trained on other",
    }
    contestant("other", {"base": right(0), "tuned": right(20)}, met=met, challenge=contest.challenge, champion="bot")
    assert (outcome("other")["promote"], outcome("other")["reason"]) == (False, "the champion was trained on other")


def test_another_base_or_a_lost_adapter_is_no_opponent_and_a_champion_is_not_its_own(challenger, monkeypatch):
    from types import SimpleNamespace

    from celora.models.spec import JobSpec
    from celora.tasks import contest
    from celora.workers.places import Places

    challenger("first", 5)

    def held(job_id, revision="r1"):
        with get_database().session() as session:
            job = history.find(session, "first")
            session.expunge(job)
        job.id, job.base = job_id, {"name": "tiny", "revision": revision}
        return SimpleNamespace(
            job=job, spec=JobSpec.model_validate(job.spec), database=get_database(),
            places=Places(get_settings(), job_id, 1),
        )  # fmt: skip

    met = contest.opponent(held("next"))
    assert (met.job_id, met.version, met.rival.side) == ("first", 1, "champion")
    assert met.facts({"champion": {}})["compared"]
    other = contest.opponent(held("next", "r2"))
    assert other.rival is None
    assert "trained on tiny at r1, this job on tiny at r2" in other.facts({})["reason"]
    assert other.warnings == [f"champion bot was not measured: {other.reason}"]
    itself = contest.opponent(held("first"))
    assert (itself.rival, itself.warnings) == (None, [])


def test_must_pass_rows_are_read_from_their_own_set(challenger, contestant):
    from celora.tasks import contest

    gate = {"must_pass": "/data/sure.jsonl"}
    none = {"name": "bot", "version": 0, "job": None, "compared": False, "reason": ""}
    answers = {"base": right(0), "tuned": right(20)}
    about = {"met": none, "challenge": contest.challenge, "champion": "bot", "gate": gate}
    contestant("unsure", answers, must_pass={"base": ["x"], "tuned": ["x"]}, **about)
    assert "1 of 1 must-pass rows failed" in outcome("unsure")["reason"]
    contestant("sure", answers, must_pass={"base": ["x"], "tuned": ["r0"]}, **about)
    assert outcome("sure")["reason"].endswith("all 1 must-pass rows right")
    assert pointer() == ("sure", 1)


def test_people_decide_after_the_fact_where_the_gate_asks_them(challenger):
    from celora.tasks import contest

    challenger("first", 5)
    asked = challenger("liked", 5, champion=5, met="first", gate={"metric": "preference"})
    assert asked["reason"] == "against first: nobody has rated the two yet (celora rate)"
    with get_database().transaction() as session:
        for i in range(12):
            ratings.rate(
                session, tenant="default", first=("liked", "a"), second=("first", "b"), choice=0 if i < 11 else 1,
                held_out="eval", prompt=f"p{i}", by="ada",
            )  # fmt: skip
    told = contest.judge_again("liked")
    assert told["promote"]
    assert "preferred in 92% of 12 ratings" in told["reason"]
    assert (pointer(), alias()["job"]) == (("liked", 2), "liked")
    with pytest.raises(SettingsError, match="competes for no champion, or is the champion already"):
        contest.judge_again("liked")


def test_a_former_champion_that_is_evaluated_again_does_not_come_back_by_itself(challenger):
    from celora.tasks import champions, contest

    challenger("first", 5)
    challenger("second", 15, champion=5, met="first")
    champions.rollback("bot", by="ada")
    assert pointer() == ("first", 3)
    contest.compete_again("second")
    assert pointer() == ("first", 3)


def test_by_hand_anything_published_is_champion_and_nothing_else(challenger, contestant):
    from celora.tasks import champions

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
    with get_database().session() as session:
        uri = session.get_one(Adapter, "plain").uri
    Artifacts(get_settings().artifacts).remove(uri)
    with pytest.raises(NotFoundError, match="the adapter of job plain is gone"):
        champions.promote("other", "plain")


def test_an_alias_that_is_missing_or_wrong_is_mended(challenger):
    from celora.tasks import champions

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
    from celora.tasks import champions

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


def ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def facts(**more):
    return {"name": "bot", "tenant": "default", "kind": "promoted", "version": 3, "job": "j", "adapter": "file:///a",
            "before": None, "reason": "; rm -rf /", "by": "", "at": "now", **more}  # fmt: skip


def test_the_command_gets_the_facts_and_no_shell(tmp_path):
    from celora.tasks.champions import run_command

    program = (
        "import json,os,sys; json.dump([json.load(sys.stdin), dict(os.environ), sys.argv[2]], open(sys.argv[1], 'w'))"
    )
    out = tmp_path / "said.json"
    assert run_command([sys.executable, "-c", program, str(out), "$HOME; echo"], facts(), 20) is None
    told, environment, word = json.loads(out.read_text())
    assert told == facts()
    assert word == "$HOME; echo"
    assert environment["CELORA_CHAMPION_REASON"] == "; rm -rf /"
    assert (environment["CELORA_CHAMPION_VERSION"], environment["CELORA_CHAMPION_BEFORE"]) == ("3", "")


def test_a_command_that_fails_hangs_or_is_not_there_says_so(tmp_path):
    from celora.tasks.champions import run_command

    assert run_command([sys.executable, "-c", "print('no such bot'); exit(3)"], facts(), 20).endswith(
        "ended with 3: no such bot"
    )
    assert "can't be run" in run_command([str(tmp_path / "nothing")], facts(), 20)
    child = tmp_path / "child"
    began = time.monotonic()
    sleeper = (
        "import os, time; pid = os.fork();"
        f"open({str(child)!r} + str(bool(pid)), 'w').write(str(os.getpid())); time.sleep(60)"
    )
    assert "took longer than 1 s" in run_command([sys.executable, "-c", sleeper], facts(), 1)
    assert time.monotonic() - began < 30
    deadline = time.monotonic() + 5  # a killed process is gone a moment later
    for path in tmp_path.glob("child*"):
        while not ended(int(path.read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_every_change_is_told_once_and_a_broken_command_is_in_the_history(challenger, monkeypatch, tmp_path):
    from celora.tasks import champions

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
    with get_database().session() as session:
        newest = record_of.events_of(session, "default", "bot")[0]
    assert (newest.told_at, newest.attempts) == (None, 1)
    assert newest.fault.endswith("ended with 1: ")


PROMOTE = "from celora.tasks import champions; champions.promote('bot', 'a')"
TELL = (
    "from celora.models.database import get_database; from celora.settings.settings import get_settings;"
    "from celora.tasks.champions import tell; tell(get_database(), get_settings())"
)


def killed_at(point, program):
    """Run a program that dies at a failpoint."""
    environment = {**os.environ, "CELORA_FAILPOINT": f"{point}:kill"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60, check=False)
    assert done.returncode == -9


@pytest.mark.slow
def test_who_is_killed_after_moving_a_champion_leaves_its_alias_to_the_next_round(contestant):
    from celora.tasks import champions

    contestant("a", {"base": right(0), "tuned": right(12)})
    killed_at("champion.moved", PROMOTE)
    assert (pointer(), alias()) == (("a", 1), None)
    assert champions.tell(get_database(), get_settings()) == 1
    assert alias()["job"] == "a"
    assert champions.tell(get_database(), get_settings()) == 0


@pytest.mark.slow
def test_who_is_killed_while_telling_a_change_is_followed_by_another_when_its_claim_is_over(contestant):
    from celora.tasks import champions

    contestant("a", {"base": right(0), "tuned": right(12)})
    killed_at("champion.moved", PROMOTE)
    killed_at("champion.claimed", TELL)
    assert champions.tell(get_database(), get_settings()) == 0
    with get_database().transaction() as session:
        session.execute(update(ChampionEvent).values(claimed_until=datetime.now(UTC) - timedelta(seconds=1)))
    assert champions.tell(get_database(), get_settings()) == 1
    assert alias()["job"] == "a"
