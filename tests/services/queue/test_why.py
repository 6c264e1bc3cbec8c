"""Why a job waits: the steps of the decision in their order, with their numbers."""

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.models.jobs import requests, transitions
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import JobClass, Reason, Stage
from celora.models.tenants.limits import set_limits
from celora.services.acceptance import write_job
from celora.services.queue.why import why
from celora.settings.settings import get_settings

RULES = ["limits", "slots", "class", "recovered", "share", "priority", "age"]


def test_the_steps_name_the_numbers_of_the_decision(here):
    here.worker()
    here.job("running", tenant="rival")
    here.round()
    here.job("older")
    here.job("higher", priority=9)
    with here.database.transaction(Scope.everything) as session:
        write_job(session, get_settings(), "unprepared", parse_spec({"base_model": "b", "dataset": "/d.jsonl"}), None)
        requests.change(session, "unprepared", requests.JobChanges(job_class=JobClass.URGENT))
    here.job("mine")
    here.older("older", 5)
    found = why("mine")
    assert [step.rule for step in found.steps] == RULES
    facts = {step.rule: step.facts for step in found.steps}
    assert facts["slots"] == {"types": ["h100"], "total": 1, "used": 1}
    assert (facts["priority"]["before"], facts["age"]["before"]) == (1, 1)
    assert facts["class"]["before"] == facts["recovered"]["before"] == 0
    assert found.entry.position == 3
    assert found.plain()["entry"]["id"] == "mine"
    assert all(step.words for step in found.steps)


def test_what_auto_took_stays_with_the_job(here):
    here.worker("h100-0@h")
    here.job("mine", gpu="auto")
    here.job("named")
    here.round()
    chosen = {"gpu_type": "h100", "need_bytes": 4 * 2**30, "fitting": ["h100"], "passed": []}
    assert here.row("mine").chosen == chosen
    with here.database.transaction(Scope.everything) as session:
        assert transitions.claim(session, "mine", 1, Stage.TRAIN, worker_id="h100-0@h", lease_s=90)
        assert transitions.release(session, Claim("mine", 1, "h100-0@h"), Reason.PREEMPTED)
    assert why("mine").chosen == chosen
    assert why("named").chosen is None


def test_the_share_names_other_tenants_to_the_operator_alone(here):
    here.worker()
    here.job("busy", tenant="rival")
    here.round()
    here.job("mine", tenant="acme")
    here.job("theirs", tenant="rival")
    share = {step.rule: step.facts for step in why("mine").steps}["share"]
    assert list(share["levels"]) == ["acme", "rival"]
    assert (share["tenants"], share["lower"]) == (2, 0)
    assert {step.rule: step.facts for step in why("theirs").steps}["share"]["lower"] == 1
    assert "rival" not in str(why("mine", scope=Scope.of("acme")))


def test_a_tenant_at_its_limit_reads_no_name_of_the_operator(here):
    here.worker()
    here.worker("h100-1@h")
    here.job("busy", tenant="acme")
    here.round()
    with here.database.transaction(Scope.everything) as session:
        set_limits(session, "acme", {"max_gpus": 1})
    here.job("mine", tenant="acme")
    here.round()
    operators, own = why("mine"), why("mine", scope=Scope.of("acme"))
    assert "max_gpus_per_tenant" in operators.steps[0].words
    assert own.steps[0].words == "all 1 devices that the tenant may use at once are in use"
    assert "max_gpus_per_tenant" not in str(own)


def test_a_job_of_somebody_else_and_one_that_does_not_wait_are_refused(here):
    here.worker()
    here.job("one")
    here.round()
    with pytest.raises(SettingsError, match="it does not wait"):
        why("one")
    for scope in (Scope.of("rival"), Scope.of("default")):
        with pytest.raises(NotFoundError):
            why("nobody's" if scope.tenant == "default" else "one", scope=scope)
