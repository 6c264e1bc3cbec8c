"""How the end of a stage is written down, and which error becomes which fact."""

from types import SimpleNamespace

import pytest

from celora.models.states import Stage
from celora.settings.errors import DataError, UnavailableError
from celora.workers import carry
from celora.workers.supervisor import Lost, TrainerError


class AwayFor:
    """A record that cannot be reached the first few times; only what ``_settle`` asks of it."""

    def __init__(self, times):
        self.times = times

    def transaction(self):
        self.times -= 1
        if self.times >= 0:
            raise UnavailableError("the record can't be reached.")
        return self

    def __enter__(self):
        return "session"

    def __exit__(self, *_):
        return None


def held(database, *, leaving=False):
    return SimpleNamespace(database=database, draining=lambda: leaving, job=SimpleNamespace(id="j"))


def test_the_end_of_a_stage_waits_for_a_record_that_is_away(monkeypatch):
    monkeypatch.setattr(carry, "SETTLE_S", 0)
    assert carry._settle(held(AwayFor(3)), lambda session: session == "session") is True


def test_a_worker_that_has_to_leave_does_not_wait():
    with pytest.raises(Lost):
        carry._settle(held(AwayFor(1), leaving=True), lambda _: True)


def test_the_trainers_own_error_is_told_with_the_tail_of_its_log():
    error = TrainerError({"code": "non_finite_loss", "message": "nan at step 3", "hint": "lower it"}, "last line")
    facts = carry._facts(error, Stage.TRAIN)
    assert facts == {
        "code": "non_finite_loss",
        "message": "nan at step 3",
        "hint": "lower it",
        "stage": "train",
        "log_tail": "last line",
    }


def test_an_error_we_can_explain_keeps_its_code_and_one_we_cannot_is_internal():
    assert carry._facts(DataError("bad", hint="mend"), Stage.PREPARE)["code"] == "bad_data"
    facts = carry._facts(ValueError("what\nmore"), Stage.PREPARE)
    assert (facts["code"], facts["message"]) == ("internal", "ValueError: what")
