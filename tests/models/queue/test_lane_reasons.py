"""The reason of a lane: written where it changes, read by every job of the lane."""

from celora.models import queries
from celora.models.database import now
from celora.models.queue.lane_reasons import LaneWait, record_lanes, wait_sentences
from celora.models.scope.scope import Scope
from celora.models.states import JobClass, Stage
from celora.models.tables import Job, LaneReason

GIB = 2**30
PREPARE = (Stage.PREPARE, JobClass.NORMAL, "auto", "", "acme")
TRAIN = (Stage.TRAIN, JobClass.NORMAL, "auto", "", "acme")


def wait(sentence, above=0, code="busy"):
    return LaneWait(above_bytes=above, code=code, facts={}, sentence=sentence)


def write(record, waits):
    with record.database.transaction(Scope.everything) as session:
        return record_lanes(session, waits)


def sentence(record, job_id="job"):
    with record.database.session(Scope.everything) as session:
        return queries.job_view(session, job_id).wait_reason


def test_only_what_changed_is_written_and_an_empty_lane_leaves_nothing(record):
    record.new()
    assert write(record, {PREPARE: [wait("all are taken")], TRAIN: [wait("none"), wait("too large", GIB)]}) == 3
    assert write(record, {PREPARE: [wait("all are taken")], TRAIN: [wait("none"), wait("too large", GIB)]}) == 0
    assert write(record, {PREPARE: [wait("all are taken")], TRAIN: [wait("some"), wait("too large", GIB)]}) == 1
    assert write(record, {PREPARE: [wait("all are taken")]}) == 2
    with record.database.session(Scope.everything) as session:
        assert [row.sentence for row in session.query(LaneReason)] == ["all are taken"]


def test_a_job_has_the_sentence_of_its_lane_and_of_its_memory(record):
    record.new()
    assert sentence(record) == ""
    write(record, {PREPARE: [wait("all are taken"), wait("needs {need}", 8 * GIB)]})
    assert sentence(record) == "all are taken"
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "job").memory_bytes = 8 * GIB
    assert sentence(record) == "all are taken"
    with record.database.transaction(Scope.everything) as session:
        session.get_one(Job, "job").least_memory_bytes = 9 * GIB
    assert sentence(record) == "needs 9.0 GiB"


def test_a_paused_job_keeps_its_own_sentence_and_a_running_one_has_none(record):
    record.new()
    write(record, {PREPARE: [wait("all are taken")]})
    record.request_pause("job")
    assert "celora resume job" in sentence(record)
    record.resume("job")
    record.send("job", 1, Stage.PREPARE, queue="prep")
    assert sentence(record) == ""


def test_a_tenant_reads_the_reasons_of_its_own_lanes(record):
    record.new()
    record.new("other", tenant="rival")
    rival = (*PREPARE[:4], "rival")
    write(record, {PREPARE: [wait("mine")], rival: [wait("theirs")]})
    with record.database.session(Scope("acme")) as session:
        assert list(wait_sentences(session, session.query(Job)).values()) == ["mine"]
        assert [row.sentence for row in session.query(LaneReason)] == ["mine"]
        assert now(session)
