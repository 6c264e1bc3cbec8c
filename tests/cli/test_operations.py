"""Stopping and starting from the command line: the record obeys without a worker, the words say what follows."""

import pytest

from celora.cli.open_record import record
from celora.models import workers
from celora.models.jobs import transitions
from celora.models.jobs.progress import record_checkpoint
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.states import Stage
from celora.models.tables import Job, Worker
from celora.settings.settings import get_settings
from celora.workers.celery import app as celery_app
from celora.workers.celery import configuration

ERROR = {"code": "internal", "message": "it broke", "hint": "mend it"}
WORKER = "h100-0@gpu-box"


def change(verb, *about, **fields):
    """Call a function that changes the record in a transaction of its own."""
    with record().transaction(Scope.everything) as session:
        return verb(session, *about, **fields)


def register(name=WORKER, kind="gpu"):
    change(
        workers.register,
        name,
        host="gpu-box",
        kind=kind,
        gpu_type="h100",
        pid=1,
        queues=["gpu.h100"],
        memory_bytes=2**36,
    )


def row(name=WORKER):
    with record().session(Scope.everything) as session:
        return session.get_one(Worker, name)


@pytest.fixture
def failed(job):
    """A job that failed in training after a checkpoint."""
    change(transitions.send, job, 1, "prepare", queue="prep")
    change(transitions.claim, job, 1, "prepare", worker_id="p", lease_s=90)
    change(transitions.advance, Claim(job, 1, "p"), "prepare", values={"prepared_uri": "file:///p", "prepared": {}})
    change(transitions.send, job, 1, "train", queue="gpu.h100", gpu_type="h100")
    change(transitions.claim, job, 1, "train", worker_id=WORKER, lease_s=90)
    facts = {"uri": "file:///c", "size_bytes": 1, "manifest_sha256": "0" * 64}
    change(record_checkpoint, Claim(job, 1, WORKER), step=40, **facts)
    change(transitions.fail, Claim(job, 1, WORKER), ERROR)
    return job


def test_a_waiting_job_is_paused_and_goes_on(celora, job):
    told = celora("pause", job)
    assert told.stdout == f"Job {job} is paused. Let it go on: celora resume {job}\n"
    assert "status     pending (paused)" in celora("status", job).stdout
    assert "paused" in celora("list").stdout
    assert celora("pause", job[:30], "--json").json() == {"id": job, "answer": "paused", "status": "pending"}
    assert celora("resume", job[:30]).stdout == f"Job {job} goes on.\n"
    assert celora("resume", job).stdout == f"Job {job} is not paused; it is pending.\n"
    assert celora("resume", job, "--json").json() == {"id": job, "resumed": False, "status": "pending"}


def test_a_running_job_is_pausing(celora, job):
    change(transitions.send, job, 1, "prepare", queue="prep")
    change(transitions.claim, job, 1, "prepare", worker_id="p", lease_s=90)
    assert "is pausing; its worker writes a checkpoint first" in celora("pause", job).stdout
    assert "status     running (pausing)" in celora("status", job).stdout
    assert "pausing" in celora("list").stdout
    celora("cancel", job)
    assert celora("pause", job).stdout == f"Job {job} is being cancelled, and is not paused.\n"


def test_a_job_that_ended_is_not_paused(celora, failed):
    assert celora("pause", failed).stdout == f"Job {failed} had ended before; it is failed.\n"


def test_a_failed_job_is_tried_again_from_its_checkpoint(celora, failed):
    lines = celora("retry", failed[:30], "--set", "time_limit_minutes=600").stdout.splitlines()
    new = lines[0]
    assert lines[1:] == [
        f"It tries {failed} again, which was failed in train.",
        "It keeps the prepared data, and trains from the checkpoint of step 40.",
        f"Follow it: celora status {new}   celora logs {new} -f",
    ]
    with record().session(Scope.everything) as session:
        job = session.get_one(Job, new)
    assert (job.stage, job.resume_of, job.spec["time_limit_minutes"]) == (Stage.TRAIN, failed, 600)
    assert f"retry of   {failed}" in celora("status", new).stdout
    told = celora("retry", failed, "--id", "mine", "--json").json()
    assert told == {"id": "mine", "retry_of": failed, "resume_of": failed, "stage": "train"}


def test_a_retry_that_changes_what_is_trained_starts_from_the_beginning(celora, failed):
    words = ["--set", "rank=8", "--set", "target-modules=q_proj", "--set", "target-modules=v_proj"]
    told = celora("retry", failed, *words)
    assert "It starts from the beginning: a field that was changed changes what is trained." in told.stdout
    with record().session(Scope.everything) as session:
        job = session.get_one(Job, told.stdout.splitlines()[0])
    assert (job.stage, job.spec["rank"], job.spec["target_modules"]) == (Stage.PREPARE, 8, ["q_proj", "v_proj"])


def test_a_value_that_is_the_old_one_changes_nothing(celora, failed):
    told = celora("retry", failed, "--set", "rank=16", "--json").json()
    assert told["resume_of"] == failed


def test_a_job_that_failed_before_it_had_data_says_so(celora, job):
    celora("cancel", job)
    assert "from the beginning: the old one had prepared no data." in celora("retry", job).stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--set", "rank"], 64, "--set 'rank' has no value"),
        (["--set", "lora_rnk=3"], 64, "did you mean rank"),
        (["--set", "gpu=h900"], 64, "there is no GPU type 'h900'"),
        (["--set", "dataset=nothing-so-called"], 66, "there is no dataset nothing-so-called"),
        (["--set", "tenant=other"], 64, "is tenant default's"),
        (["--id", "no/id"], 64, "cannot be a job id"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_a_retry_cannot_be_is_a_sentence(celora, failed, words, code, told):
    result = celora("retry", failed, *words)
    assert result.exit_code == code
    assert told in result.stderr
    assert celora("list", "--status", "pending", "--json").json() == []


def test_a_retry_asked_for_twice_under_one_id_is_one_job(celora, failed):
    told = [celora("retry", failed, "--id", "mine", "--json").json() for _ in range(2)]
    assert told[0] == told[1]


def test_an_id_that_is_taken_is_refused(celora, failed):
    result = celora("retry", failed, "--id", failed)
    assert result.exit_code == 64
    assert f"there is a job {failed} already" in result.stderr


def test_a_job_that_did_not_fail_is_not_tried_again(celora, job):
    result = celora("retry", job)
    assert result.exit_code == 64
    assert "is pending; only a failed or cancelled one can be tried again" in result.stderr
    assert "celora resume" in result.stderr


@pytest.mark.parametrize("command", ["pause", "resume", "retry"])
def test_an_unknown_job_is_a_sentence(celora, command):
    result = celora(command, "nobody")
    assert result.exit_code == 66
    assert "there is no job nobody" in result.stderr


def test_a_worker_is_cordoned_and_uncordoned_by_the_beginning_of_its_name(celora):
    register()
    assert celora("cordon", "h100-0", "--note", "Ada needs it").stdout == (
        f"Worker {WORKER} takes no more work. Let it: celora uncordon {WORKER}\n"
    )
    assert "cordoned: Ada needs it" in celora("workers").stdout
    assert celora("workers", "--json").json()[0]["obstacle"] == "cordoned: Ada needs it"
    assert celora("uncordon", "h100-0").stdout == "Worker h100-0 takes work again.\n"
    assert celora("workers", "--json").json()[0]["obstacle"] == ""


def test_an_uncordoned_worker_that_takes_no_work_for_another_reason_says_so(celora):
    register()
    change(workers.record_heartbeat, WORKER, foreign_bytes=5 * 2**30)
    assert "somebody else holds 5.0 GiB" in celora("workers").stdout
    told = celora("uncordon", WORKER)
    assert "takes no work yet: somebody else holds 5.0 GiB of its device's memory." in told.stdout
    change(workers.drain, WORKER)
    assert celora("workers", "--json").json()[0]["obstacle"] == "draining"


def test_an_unhealthy_worker_is_told_with_its_reason_and_trusted_again(celora):
    register()
    for _ in range(2):
        change(workers.count_device_fault, WORKER, "CUDA error: unspecified launch failure")
    assert "unhealthy: 2 device errors in a row; last: CUDA error" in celora("workers").stdout
    celora("uncordon", WORKER)
    assert row().health == "ok"


def test_a_worker_is_asked_to_drain(celora):
    register()
    assert "drains: its job is handed back" in celora("drain", WORKER).stdout
    assert row().drain_asked
    change(workers.mark_offline, WORKER)
    assert celora("drain", WORKER, "--json").json() == {"worker": WORKER, "answer": "offline"}


def test_a_workers_trainer_host_is_shown_and_restarted_and_the_books_say_who_asked(celora):
    register()
    host = workers.Resident(generation="g1", started_at=0, memory_bytes=2**30, runs=1, base="llama", revision="r1")
    change(workers.record_resident, WORKER, host)
    assert celora("workers", "--json").json()[0]["resident"]["base"] == "llama"
    assert "llama," in celora("workers").stdout
    assert "ends its trainer host" in celora("host", "restart", WORKER).stdout
    assert row().host_restart_asked
    booked = next(one for one in celora("audit", "--json").json() if one["action"] == "worker.host_restart")
    assert (booked["before"], booked["after"]) == ({"host": "g1"}, {"restarting": True})
    change(workers.mark_offline, WORKER)
    assert celora("host", "restart", WORKER, "--json").json() == {"worker": WORKER, "answer": "offline"}


@pytest.mark.parametrize("command", ["drain", "cordon", "uncordon"])
def test_a_worker_that_is_not_there_is_told_with_the_nearest_names(celora, command):
    none = celora(command, "h100-0@gpu-bx")
    assert none.exit_code == 66
    assert "none has registered" in none.stderr
    register()
    register("h100-1@gpu-box")
    told = celora(command, "h100-0@gpu-bx").stderr
    assert "there is no worker h100-0@gpu-bx; did you mean h100-0@gpu-box" in told
    assert "is the beginning of more than one worker: h100-0@gpu-box, h100-1@gpu-box" in celora(command, "h100").stderr


def test_a_control_worker_is_not_cordoned(celora):
    register("control@main", kind="control")
    result = celora("cordon", "control")
    assert result.exit_code == 64
    assert "runs no jobs" in result.stderr
    assert not row("control@main").cordoned


def test_without_a_broker_everything_is_obeyed(celora, failed, monkeypatch):
    monkeypatch.setenv("CELORA_BROKER_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    celery_app.conf.update(configuration(get_settings()))
    register()
    for words in (["cordon", WORKER], ["uncordon", WORKER], ["drain", WORKER], ["retry", failed, "--id", "new"],
                  ["pause", "new"], ["resume", "new"]):  # fmt: skip
        assert celora(*words).exit_code == 0, words
    assert row().drain_asked
    assert not workers.obstacle(row(), 0)
