"""The sentences that the transitions write into a job's row."""

from celora.models.queue.wait_words import backoff_words, pause_words, paused_words
from celora.models.rows import Claim
from celora.models.states import Reason, Ruling, Stage, Status


def test_a_rest_after_a_failure_names_the_seconds_and_the_failures():
    assert backoff_words(wait_s=0.2, faults={}) == "tried again in 1 s"
    assert backoff_words(wait_s=40, faults={"storage": 2}) == "tried again in 40 s (so far: storage x2)"


def test_a_job_that_its_budget_paused_says_what_it_would_take():
    limited = {"code": "job_budget", "job_id": "j", "cost": 2.5, "limit": 2.0}
    assert pause_words("j", limited).startswith("its budget of 2 is used (2.5); `celora resume j --budget 5`")
    assert pause_words("j", None) == pause_words("j", {"code": "budget"}) == paused_words(job_id="j")


def test_a_paused_job_and_one_that_rests_have_their_sentence_without_a_round(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.try_again(Claim("job", 1, record.job().worker_id), {"code": "storage"}, Ruling(again=True, wait_s=40))
    assert record.job().wait_reason == backoff_words(wait_s=40, faults={"storage": 1})
    record.request_pause("job")
    assert record.job().wait_reason == paused_words(job_id="job")


def test_a_job_that_was_paused_while_it_ran_says_how_it_goes_on(record):
    record.bring(Status.RUNNING, Stage.TRAIN)
    record.request_pause("job")
    record.release(Claim("job", 1, record.job().worker_id), Reason.PAUSED)
    assert record.job().wait_reason == paused_words(job_id="job")
