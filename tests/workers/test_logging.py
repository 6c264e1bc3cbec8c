"""One record a line, in text and in JSON, with what it is about and without secrets."""

import io
import json
import logging
import subprocess
import sys
import threading
from datetime import datetime, timedelta

import pytest

from celora.settings.settings import get_settings
from celora.workers import logging as log_lines

LOGGER = logging.getLogger("celora.tests.lines")
JOB = "019a2b3c-1111-7000-8000-1234567890ab"


@pytest.fixture
def written(home, monkeypatch):
    """Sets the format and returns what was written since; the loggers are left as they were."""
    monkeypatch.setattr(log_lines, "_process", {})
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False

    def use(log_format):
        handler.setFormatter(log_lines.JsonLines() if log_format == "json" else log_lines.TextLines())
        return stream

    yield use
    LOGGER.removeHandler(handler)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_object_with_its_time_in_utc(written):
    stream = written("json")
    LOGGER.warning("two\nlines, ü and %d", 7)
    (line,) = lines(stream)
    at = datetime.fromisoformat(line.pop("time"))
    assert at.utcoffset() == timedelta(0)
    assert line.pop("process") > 0
    assert line == {"level": "WARNING", "logger": LOGGER.name, "message": "two\nlines, ü and 7"}


def test_the_facts_of_a_job_stand_in_every_line_also_of_its_threads_and_no_longer(written):
    stream = written("json")
    log_lines.name_process("gpu-0@box")
    with log_lines.about(job=JOB, attempt=2, tenant="team", stage="train"):
        thread = log_lines.job_thread(lambda: LOGGER.info("renewed"), "lease")
    thread.start()
    thread.join()
    LOGGER.info("idle")
    during, after = lines(stream)
    assert {name: during[name] for name in log_lines.FIELDS} == {
        "worker": "gpu-0@box", "job": JOB, "attempt": 2, "tenant": "team", "stage": "train"
    }  # fmt: skip
    assert (after["worker"], "job" in after) == ("gpu-0@box", False)


def test_two_jobs_in_one_process_keep_their_lines_apart(written):
    stream = written("json")
    both = threading.Barrier(2)

    def run(job):
        with log_lines.about(job=job):
            both.wait(60)
            LOGGER.info("step of %s", job.upper())
            both.wait(60)

    threads = [threading.Thread(target=run, args=(job,)) for job in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((line["message"], line["job"]) for line in lines(stream)) == [("step of A", "a"), ("step of B", "b")]


def test_a_message_that_names_a_job_is_about_that_job(written):
    stream = written("json")
    with log_lines.about(job="another"):
        LOGGER.info("job %s: its message was lost", JOB)
    assert lines(stream)[0]["job"] == JOB


@pytest.mark.parametrize(
    ("name", "message_id", "facts"),
    [
        ("celora.train", f"{JOB}.train.3.1", {"job": JOB, "stage": "train", "attempt": 3}),
        ("celora.finetune", JOB, {"job": JOB}),
        ("celora.tick", "b7c1", {}),
        ("elsewhere.train", f"{JOB}.train.3.1", {}),
        ("celora.train", "forged", {}),
        ("celora.train", f"{JOB}.train.x.1", {}),
    ],
)
def test_celerys_own_line_about_a_stages_message_names_its_job(written, name, message_id, facts):
    stream = written("json")
    LOGGER.info("Task %s[%s] received", name, message_id, extra={"data": {"id": message_id, "name": name}})
    (line,) = lines(stream)
    assert {key: line[key] for key in log_lines.FIELDS if key in line} == facts


def test_an_exception_is_a_field_and_secrets_are_masked_in_it_and_in_the_message(written):
    stream = written("json")
    token = "hf_" + "a1" * 15
    try:
        int(f"redis://:hunter2@host refused {token}")
    except ValueError:
        LOGGER.exception("with %s", token)
    (line,) = lines(stream)
    assert line["message"] == "with [secret masked]"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("'redis://:[secret masked]@host refused [secret masked]'")


def test_text_says_the_job_once_and_masks_too(written):
    stream = written("text")
    with log_lines.about(job=JOB):
        LOGGER.info("uploading to redis://:hunter2@host")
        LOGGER.info("job %s: done", JOB)
    first, second = stream.getvalue().splitlines()
    assert first.endswith(f"uploading to redis://:[secret masked]@host [job {JOB}]")
    assert second.endswith(f"{LOGGER.name}: job {JOB}: done")


DIES = """
import logging, threading, warnings
from celora.workers import logging as log_lines
log_lines.set_up()
warnings.warn("soon")
threading.Thread(target=lambda: 1 / 0, name="side").start()
raise RuntimeError("it broke")
"""


def test_what_ends_a_process_or_a_thread_and_a_warning_are_records_too(home, monkeypatch):
    monkeypatch.setenv("CELORA_LOG_FORMAT", "json")
    done = subprocess.run([sys.executable, "-c", DIES], capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in found] == ["WARNING", "CRITICAL", "CRITICAL"]
    assert "soon" in found[0]["message"]
    assert {found[1]["message"], found[2]["message"]} == {
        "the thread side ends: division by zero", "the process ends: it broke"
    }  # fmt: skip
    assert done.returncode == 1


def test_a_wrong_format_is_refused(home, monkeypatch):
    monkeypatch.setenv("CELORA_LOG_FORMAT", "xml")
    get_settings.cache_clear()
    with pytest.raises(Exception, match="log_format"):
        get_settings()
