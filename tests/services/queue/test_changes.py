"""Changes of a waiting job: checked, audited, estimated anew; what a running job cannot take is refused."""

import pytest
from sqlalchemy import select

from celora.errors import NotFoundError, SettingsError
from celora.models.scope.scope import Scope
from celora.models.states import JobClass
from celora.models.tables import AuditEntry, Event, Hold
from celora.models.tenants.limits import set_limits
from celora.services.queue.changes import JobChanges, change_job
from celora.services.queue.listing import list_queue


def test_a_changed_job_takes_another_place_and_the_change_is_audited(here):
    here.worker()
    here.job("first")
    here.job("second")
    assert [entry.id for entry in list_queue()] == ["first", "second"]
    changed = change_job("second", JobChanges(priority=5, gpu="auto", labels=["b", "a"], job_class=JobClass.BACKGROUND))
    assert changed == {"priority": 5, "gpu": "auto", "labels": ["a", "b"], "job_class": "background"}
    row = here.row("second")
    assert (row.priority, row.gpu, row.labels, row.job_class) == (5, "auto", "a,b", JobClass.BACKGROUND)
    assert row.spec["labels"] == ["a", "b"]
    with here.database.session(Scope.everything) as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "job.set")).one()
        assert (entry.object, entry.before["priority"], entry.after["priority"]) == ("second", 0, 5)
        assert session.get_one(Hold, "second").asks
    change_job("second", JobChanges(labels=[], gpu="h100", job_class=JobClass.NORMAL))
    assert [entry.id for entry in list_queue()] == ["second", "first"]


@pytest.mark.parametrize(("changes", "words"), [
    ({"priority": 11}, "out of range"), ({"priority": -101}, "out of range"),
    ({"job_class": JobClass.URGENT}, "not granted"), ({"gpu": "abacus"}, "no GPU type"),
    ({"labels": ["Ü"]}, "can't be a label"), ({"budget": float("nan")}, "below"), ({"budget": -1.0}, "below"),
    ({}, "nothing is to change"),
])  # fmt: skip
def test_what_is_not_possible_is_refused_and_changes_nothing(here, changes, words):
    with here.database.transaction(Scope.everything) as session:
        set_limits(session, "default", {"max_priority": 10})
    here.job("one")
    before = here.row("one").spec
    with pytest.raises(SettingsError, match=words):
        change_job("one", JobChanges(**changes))
    assert here.row("one").spec == before


def test_a_budget_below_the_estimate_and_labels_that_nobody_carries_are_marked(here):
    here.job("one")
    change_job("one", JobChanges(budget=1e-6, labels=["no-such"]))
    change_job("one", JobChanges(budget=1e6, labels=[]))
    with here.database.session(Scope.everything) as session:
        marks = session.scalars(select(Event).where(Event.job_id == "one", Event.level == "warning")).all()
        assert [row.kind for row in marks] == ["labels_not_carried", "budget_below_estimate"]
        assert marks[1].data["budget"] == 1e-6 < marks[1].data["cost"]


def test_a_job_with_a_slot_keeps_its_type_and_labels_and_takes_the_rest(here):
    here.worker()
    here.job("one")
    here.round()
    for changes in (JobChanges(gpu="l4"), JobChanges(labels=["a"])):
        with pytest.raises(SettingsError, match="can't change its slot now"):
            change_job("one", changes)
    change_job("one", JobChanges(priority=3, budget=7.0))
    assert (here.row("one").priority, here.row("one").spec["budget"]) == (3, 7.0)


def test_a_granted_class_is_taken_and_another_tenants_job_is_not_found(here):
    with here.database.transaction(Scope.everything) as session:
        set_limits(session, "default", {"classes": "urgent,normal"})
    here.job("one")
    assert change_job("one", JobChanges(job_class=JobClass.URGENT)) == {"job_class": "urgent"}
    assert change_job("one", JobChanges(priority=2), scope=Scope.of("default")) == {"priority": 2}
    with pytest.raises(NotFoundError):
        change_job("one", JobChanges(priority=1), scope=Scope.of("rival"))
