"""Settings become the limits that the trainer program takes; zero stays zero, which is no limit."""

import pytest

from celora.settings.settings import load_settings
from celora.tuning.protocol import Limits
from celora.workers.trainer.limits import prepare_limits, source_access


def test_each_limit_has_its_setting(home):
    settings = load_settings(prepare_memory_bytes=1, prepare_cpu_s=2, prepare_file_bytes=3, prepare_wall_s=4)
    assert prepare_limits(settings) == Limits(memory_bytes=1, cpu_s=2, file_bytes=3, wall_s=4)


def test_no_limit_stays_no_limit(home):
    settings = load_settings(prepare_memory_bytes=0, prepare_cpu_s=0, prepare_file_bytes=0, prepare_wall_s=0)
    assert prepare_limits(settings) == Limits()


@pytest.mark.parametrize(
    ("root", "added"), [("", ["{home}/artifacts"]), ("file:///mnt/a", ["/mnt/a"]), ("s3://bucket/a", [])]
)
def test_files_may_lie_in_allowed_folders_the_scratch_and_local_artifacts(home, root, added):
    settings = load_settings(allowed_roots=["/data"], artifact_root=root)
    access = source_access(settings)
    assert access.local_roots == ["/data", f"{home}/scratch", *(each.format(home=home) for each in added)]


def test_remote_files_need_an_allowed_scheme_and_host(home):
    access = source_access(load_settings())
    assert (access.allowed_schemes, access.allowed_hosts) == ([], [])
    access = source_access(
        load_settings(allowed_schemes=["https"], allowed_hosts=["*.example.org"], prepare_file_bytes=7)
    )
    assert (access.allowed_schemes, access.allowed_hosts, access.max_bytes) == (["https"], ["*.example.org"], 7)
