"""The records of the queue are plain data for programs, in the order of their fields."""

from datetime import UTC, datetime

from celora.models.states import JobClass, Stage
from celora.services.queue.explanations import Entry, Explanation, Step

AT = datetime(2026, 11, 30, tzinfo=UTC)
ENTRY = Entry(
    id="job-1", tenant="team-a", stage=Stage.TRAIN, gpu="auto", job_class=JobClass.NORMAL, priority=0, labels=["ssd"],
    recovered=False, created_at=AT, waited_s=1.5, position=2, ahead={"team-a": 1}, earliest_at=AT, latest_at=None,
    code="busy", facts={"need_bytes": 3}, reason="all are taken", share_used=0.8,
)  # fmt: skip


def test_an_explanation_holds_its_entry_and_steps_as_plain_data():
    plain = Explanation(
        entry=ENTRY, steps=[Step(rule="age", facts={"before": 1}, words="1 is older")], chosen=None
    ).plain()
    assert plain["entry"] == ENTRY.plain()
    assert (plain["steps"], plain["chosen"]) == ([{"rule": "age", "facts": {"before": 1}, "words": "1 is older"}], None)
    assert list(ENTRY.plain())[:4] == ["id", "tenant", "stage", "gpu"]
