"""What a tenant reads of its jobs: in its own words, without places and machines, and nothing of others."""

import pytest

from celora.errors import RequestError
from celora.models.states import Stage, Status
from celora.services.native import job_reads
from celora.settings.settings import get_settings

RECEIPT = {"ok": True, "rows": {"kept": 3}, "estimate": {"cpu": {"seconds": 5.0}}, "files": ["/srv/secret/rows.jsonl"]}


def prepared(moved):
    moved.begin(Stage.PREPARE)
    moved.finish(Stage.PREPARE, base={"name": "tiny", "revision": "r1"}, prepared={"receipt": RECEIPT})


def refused(call, *arguments, **options):
    with pytest.raises(RequestError) as caught:
        call(*arguments, **options)
    return caught.value.status, caught.value.reason


def test_a_summary_has_neither_places_nor_machines(submit):
    submit().complete([{"step": 1, "train_loss": 2.0}])
    found = job_reads.summary("team-a", "job-1")
    assert (found["id"], found["status"], found["user"]) == ("job-1", "completed", found["user"])
    assert not job_reads.PLACES & set(found)
    assert "w@here" not in str(found)


def test_the_queue_holds_the_unfinished_jobs_with_the_reason_why_each_waits(submit):
    submit("job-1").complete()
    submit("job-2")
    submit("job-3", tenant="team-b")
    submit("job-4")
    places = [(job["id"], job["place"]["position"], job["place"]["ahead"]) for job in job_reads.queue("team-a", 10)]
    others = {"other tenants": 1}  # it has used nothing, so its turn comes first
    assert places == [("job-2", 2, others), ("job-4", 3, {"team-a": 1, **others})]
    assert [job["id"] for job in job_reads.listed("team-a", status=None, after=None, limit=1)[0]] == ["job-4"]
    assert job_reads.listed("team-a", status=Status.COMPLETED, after=None, limit=5)[1] is False


def test_a_receipt_and_its_estimate_are_there_once_the_data_is_prepared(submit):
    moved = submit()
    assert refused(job_reads.receipt, "team-a", "job-1") == (404, "not_ready")
    prepared(moved)
    assert job_reads.receipt("team-a", "job-1")["rows"] == {"kept": 3}
    assert "/srv/secret" not in str(job_reads.receipt("team-a", "job-1"))
    assert job_reads.estimate("team-a", "job-1") == {"cpu": {"seconds": 5.0}}


def test_events_go_on_after_an_id_and_say_when_the_job_has_ended(submit):
    moved = submit()
    first, ended = job_reads.events("team-a", "job-1", after_id=0, limit=100)
    assert (first[0].kind, ended) == ("submitted", False)
    moved.complete()
    rest, ended = job_reads.events("team-a", "job-1", after_id=first[-1].id, limit=100)
    assert ended is True
    assert rest[-1].kind == "completed"
    assert min(line.id for line in rest) > first[-1].id


def test_the_end_of_the_newest_log_begins_with_a_whole_line_and_names_no_machine(submit, artifacts, tmp_path):
    submit().begin(Stage.PREPARE)
    assert refused(job_reads.log_tail, "team-a", "job-1", get_settings()) == (404, "not_ready")
    for stage, content in ((Stage.PREPARE, b"older\n"), (Stage.TRAIN, b"first line\n10%\r20%\nlast on w@here\n")):
        (tmp_path / "log").write_bytes(content)
        artifacts.put_file(tmp_path / "log", artifacts.uri("jobs", "job-1", "logs", f"001-{stage}.log"))
    found = job_reads.log_tail("team-a", "job-1", get_settings(), 24)
    assert found.startswith("20%\nlast on ")
    assert "w@here" not in found


def test_another_tenants_job_is_not_there(submit):
    prepared(submit())
    for call in (job_reads.summary, job_reads.receipt, job_reads.estimate):
        assert refused(call, "team-b", "job-1") == (404, "job_not_found")
    assert refused(job_reads.events, "team-b", "job-1", after_id=0, limit=9) == (404, "job_not_found")
    assert refused(job_reads.log_tail, "team-b", "job-1", get_settings()) == (404, "job_not_found")
