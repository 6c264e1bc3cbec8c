"""The JSON columns of a job are read through the models that wrote them."""

from celora.models import columns
from celora.models.columns import Compared, Evaluated, JobError, Outcome, Progress, error_of, evaluated_of
from celora.models.tables import Job


def test_an_empty_column_is_none():
    assert Evaluated.read(None) is None
    assert error_of(Job(error=None)) == JobError(code="internal")


def test_what_a_newer_version_wrote_beside_is_left_out():
    assert JobError.read({"code": "bad_data", "message": "m", "mood": "calm"}) == JobError(code="bad_data", message="m")
    assert evaluated_of(Job(evaluation={"uri": "u", "new": 1})) == Evaluated(uri="u")
    assert Progress.read({"step": 3, "loss": 1.5}).loss == 1.5


def test_an_empty_row_has_empty_facts():
    job = Job()
    assert (columns.request_of(job), columns.faults_of(job)) == ({}, {})
    assert (columns.outcome_of(job), columns.rival_of(job), columns.serving_of(job)) == (None, None, {})
    assert (columns.measured_sets(job), columns.receipt_sets(job)) == ({}, {})
    assert (columns.quantization_of(job), columns.max_length_of(job)) == (None, None)


def test_a_row_that_competed_has_its_rival_and_its_outcome():
    rival = {"name": "bot", "version": 2, "job": "first", "compared": True, "reason": ""}
    decision = {"name": "bot", "promote": True, "reason": "better", "figures": {}, "against": "first", "stale": False}
    job = Job(evaluation={"uri": "u", "champion": rival}, summary={"champion": decision, "metrics": {}})
    assert columns.rival_of(job) == Compared(name="bot", version=2, job="first", compared=True)
    assert columns.outcome_of(job) == Outcome(**decision)
    assert columns.outcome_of(Job(summary={"metrics": {}})) is None


def test_the_sets_of_a_job_keep_their_order():
    job = Job(metrics={"sets": {"eval": {"rows": 4}, "must_pass": {"rows": 1}}},
              prepared={"receipt": {"sets": {"must_pass": {"dropped": 2}}}})  # fmt: skip
    assert list(columns.measured_sets(job)) == ["eval", "must_pass"]
    assert columns.receipt_sets(job) == {"must_pass": {"dropped": 2}}


def test_the_facts_of_a_training_are_those_of_its_result_and_before_of_its_start():
    started = {"trainable_parameters": 20, "total_parameters": 1000}
    facts = columns.training_facts(started, None)
    assert (facts.trainable_share, facts.train_loss) == (0.02, None)
    assert columns.training_facts(started, {"train_loss": 0.5, "total_parameters": 40}).trainable_share == 0.5
    assert columns.training_facts(None, None).trainable_share is None


def test_the_longest_row_is_the_recipes_and_before_training_the_prepared_datas():
    prepared = {"max_length": 64}
    assert columns.max_length_of(Job(prepared=prepared)) == 64
    assert columns.max_length_of(Job(prepared=prepared, resolved={"max_length": 32, "quantization": "nf4"})) == 32
