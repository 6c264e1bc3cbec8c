"""The tables of the queue hold what a round writes."""

from celora.models.database import now
from celora.models.scope.scope import Scope
from celora.models.states import JobClass, Stage
from celora.models.tables import LaneReason, TenantUse


def test_a_lane_has_one_reason_for_each_bound_of_memory(record):
    record.new()
    lane = {"stage": Stage.TRAIN, "job_class": JobClass.URGENT, "gpu": "auto", "labels": "", "tenant": "acme"}
    with record.database.transaction(Scope.everything) as session:
        at = now(session)
        for above in (0, 2**40):
            session.add(
                LaneReason(**lane, above_bytes=above, code="busy", facts={"total": 1}, sentence="taken", since=at)
            )
        session.add(TenantUse(tenant="acme", at=at))
    with record.database.session(Scope.everything) as session:
        assert [row.above_bytes for row in session.query(LaneReason).order_by(LaneReason.above_bytes)] == [0, 2**40]
        assert (session.get_one(TenantUse, "acme").gpu_seconds, session.get_one(TenantUse, "acme").competes) == (
            0,
            False,
        )
