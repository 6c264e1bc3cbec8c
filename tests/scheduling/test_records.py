"""The plain records of the policy."""

from datetime import UTC, datetime, timedelta

from celora.models.states import JobClass, Stage
from celora.scheduling.records import Holding, Lane, Node, Waiting

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def test_jobs_that_wait_for_the_same_slots_share_a_lane():
    job = Waiting(id="j", tenant="a", stage=Stage.TRAIN, gpu="h100", priority=5, created_at=NOON, labels="big")
    assert job.lane == Lane(Stage.TRAIN, JobClass.NORMAL, "h100", "big", "a")


def test_a_job_whose_message_is_under_way_has_held_its_slot_for_no_time():
    assert Holding(tenant="a", gpu_type="h100").elapsed_s(NOON) == 0
    assert Holding(tenant="a", gpu_type="h100", since=NOON - timedelta(seconds=5)).elapsed_s(NOON) == 5


def test_a_worker_that_is_reserved_or_carries_labels_reads_its_own_queue():
    assert not Node(kind="gpu", gpu_type="h100").own_queue
    assert Node(kind="gpu", gpu_type="h100", tenant="a").own_queue
    assert Node(kind="gpu", gpu_type="h100", labels=frozenset({"big"})).own_queue
