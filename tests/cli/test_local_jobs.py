"""The jobs of this machine's record, as the commands read them."""

import pytest

from celora.cli.local_jobs import LocalJobs
from celora.errors import NotFoundError
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts


def test_a_job_is_found_by_the_beginning_of_its_id(job):
    jobs = LocalJobs()
    assert jobs.whole_id(job[:30]) == jobs.detail(job[:30]).id == job
    with pytest.raises(NotFoundError):
        jobs.detail("nobody")


def test_each_look_at_a_log_gives_what_came_since(job, tmp_path):
    jobs, shown = LocalJobs(), {}
    artifacts = Artifacts(get_settings().artifacts)

    def write(text):
        (tmp_path / "log").write_text(text)
        artifacts.put_file(tmp_path / "log", artifacts.uri("jobs", job, "logs", "001-prepare.log"))
        return list(jobs.log_news(jobs.detail(job), shown))

    assert write("one\n") == [("001-prepare.log", "one\n")]
    assert write("one\ntwo\n") == [("001-prepare.log", "two\n")]
    assert write("o\n") == [("001-prepare.log", "")]
    assert shown == {"001-prepare.log": 2}
