"""A challenge is decided when a job is published, judged again, or overtaken; by the rows that were answered."""

from types import SimpleNamespace

import pytest
from competition import alias, outcome, pointer, right

from celora.errors import SettingsError, UnavailableError
from celora.models import queries, ratings
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.spec import JobSpec
from celora.services import challenge, champions, jobs
from celora.settings.settings import get_settings
from celora.tuning.evaluation.measures import METRICS_VERSION
from celora.workers.stages.workspace import Workspace


@pytest.mark.slow
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
    again = []
    monkeypatch.setattr(jobs, "evaluate_again", again.append)
    challenger("first", 5)
    challenger("second", 12, champion=5, met="first")
    late = challenger("late", 18, champion=5, met="first")
    assert not late["promote"]
    assert late["reason"] == "the champion became second after this job was evaluated, so the two were not compared"
    assert again == ["late"]
    assert pointer() == ("second", 2)


def test_one_that_could_not_be_compared_says_why(challenger, contestant):
    challenger("first", 5)
    met = {
        "name": "bot",
        "version": 1,
        "job": "first",
        "compared": False,
        "reason": "the champion was trained on other",
    }
    contestant("other", {"base": right(0), "tuned": right(20)}, met=met, challenge=challenge.challenge, champion="bot")
    assert (outcome("other")["promote"], outcome("other")["reason"]) == (False, "the champion was trained on other")


def test_another_base_or_a_lost_adapter_is_no_opponent_and_a_champion_is_not_its_own(challenger, monkeypatch):
    challenger("first", 5)

    def held(job_id, revision="r1"):
        with get_database().session(Scope.everything) as session:
            job = queries.find(session, "first")
            session.expunge(job)
        job.id, job.base = job_id, {"name": "tiny", "revision": revision}
        return SimpleNamespace(
            job=job, spec=JobSpec.model_validate(job.spec), database=get_database(),
            workspace=Workspace(get_settings(), job_id, 1),
        )  # fmt: skip

    met = challenge.opponent(held("next"))
    assert (met.job_id, met.version, met.rival.side) == ("first", 1, "champion")
    assert met.facts({"champion": {}})["compared"]
    other = challenge.opponent(held("next", "r2"))
    assert other.rival is None
    assert "trained on tiny at r1, this job on tiny at r2" in other.facts({})["reason"]
    assert other.warnings == [f"champion bot was not measured: {other.reason}"]
    itself = challenge.opponent(held("first"))
    assert (itself.rival, itself.warnings) == (None, [])


def test_must_pass_rows_are_read_from_their_own_set(challenger, contestant):
    gate = {"must_pass": "/data/sure.jsonl"}
    none = {"name": "bot", "version": 0, "job": None, "compared": False, "reason": ""}
    answers = {"base": right(0), "tuned": right(20)}
    about = {"met": none, "challenge": challenge.challenge, "champion": "bot", "gate": gate}
    contestant("unsure", answers, must_pass={"base": ["x"], "tuned": ["x"]}, **about)
    assert "1 of 1 must-pass rows failed" in outcome("unsure")["reason"]
    contestant("sure", answers, must_pass={"base": ["x"], "tuned": ["r0"]}, **about)
    assert outcome("sure")["reason"].endswith("all 1 must-pass rows right")
    assert pointer() == ("sure", 1)


def test_people_decide_after_the_fact_where_the_gate_asks_them(challenger):
    challenger("first", 5)
    asked = challenger("liked", 5, champion=5, met="first", gate={"metric": "preference"})
    assert asked["reason"] == "against first: nobody has rated the two yet (celora rate)"
    with get_database().transaction(Scope.everything) as session:
        for i in range(12):
            ratings.rate(
                session, tenant="default", first=("liked", "a"), second=("first", "b"), choice=0 if i < 11 else 1,
                held_out="eval", prompt=f"p{i}", by="ada",
            )  # fmt: skip
    told = challenge.judge_again("liked")
    assert told["promote"]
    assert "preferred in 92% of 12 ratings" in told["reason"]
    assert (pointer(), alias()["job"]) == (("liked", 2), "liked")
    with pytest.raises(SettingsError, match="competes for no champion, or is the champion already"):
        challenge.judge_again("liked")


def test_a_former_champion_that_is_evaluated_again_does_not_come_back_by_itself(challenger):
    challenger("first", 5)
    challenger("second", 15, champion=5, met="first")
    champions.rollback("bot", by="ada")
    assert pointer() == ("first", 3)
    challenge.compete_again("second")
    assert pointer() == ("first", 3)


@pytest.fixture
def measured_again(monkeypatch):
    """The ids of the jobs that are sent to be evaluated once more."""
    sent = []
    monkeypatch.setattr(jobs, "evaluate_again", sent.append)
    return sent


def measured_by(job_id, version):
    """Writes the version of the measures into a job's evaluation."""
    with get_database().transaction(Scope.everything) as session:
        job = queries.find(session, job_id)
        job.evaluation = {**job.evaluation, "metrics_version": version}


def test_numbers_of_an_older_version_are_measured_again_before_the_gate_is_judged(challenger, measured_again):
    challenger("first", 5)
    challenger("next", 5, champion=5, met="first")
    measured_by("next", METRICS_VERSION - 1)
    told = challenge.judge_again("next")
    assert (told["promote"], told["figures"]) == (False, {})
    assert told["reason"].startswith("the job was measured by an older version")
    assert (measured_again, pointer()) == (["next"], ("first", 1))
    measured_by("next", METRICS_VERSION)
    told = challenge.judge_again("next")
    assert told["reason"].startswith("against first: ")
    assert measured_again == ["next"], "numbers of this version are judged, not measured again"


def test_who_is_judged_again_after_the_champion_changed_is_measured_against_the_new_one(challenger, measured_again):
    challenger("first", 5)
    challenger("waiting", 5, champion=5, met="first")
    challenger("second", 15, champion=5, met="first")
    told = challenge.judge_again("waiting")
    assert (told["promote"], told["reason"]) == (
        False,
        "the champion became second after this job was evaluated, so the two were not compared",
    )
    assert (measured_again, pointer()) == (["waiting"], ("second", 2))


def test_a_gate_is_judged_even_where_no_worker_can_be_asked_to_measure_again(challenger, monkeypatch):
    def unreachable(job_id):
        raise UnavailableError(f"no broker for {job_id}.")

    challenger("first", 5)
    challenger("waiting", 5, champion=5, met="first")
    challenger("second", 15, champion=5, met="first")
    monkeypatch.setattr(jobs, "evaluate_again", unreachable)
    assert not challenge.judge_again("waiting")["promote"]
    assert pointer() == ("second", 2)


def test_only_a_completed_job_of_the_tenant_is_judged_again(challenger):
    challenger("first", 5)
    for job_id, tenant in (("missing", None), ("first", "another")):
        with pytest.raises(SettingsError, match="is no completed job"):
            challenge.judge_again(job_id, tenant=tenant)
