"""Failpoints: off unless armed, once, at the right pass; every one is placed in the code and in the docs."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from celora.errors import SettingsError
from celora.settings import failpoints
from celora.settings.failpoints import FAILPOINTS

ROOT = Path(__file__).parents[2]
ROOMS = (
    "settings",
    "storage",
    "models",
    "scheduling",
    "workers",
    "services",
    "doctor",
    "tasks",
    "api",
    "cli",
    "tuning",
)
PROGRAM = (
    "from celora.settings.failpoints import hit; [hit('work.begin') or print('passed', flush=True) for _ in '1234']"
)


@pytest.fixture
def arm(monkeypatch):
    return lambda text: monkeypatch.setattr(failpoints, "_armed", failpoints.parse(text))


def run(armed, **environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment, "CELORA_FAILPOINT": armed},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_nothing_happens_where_none_is_armed():
    assert failpoints._armed == {}
    for name in FAILPOINTS:
        failpoints.hit(name)


@pytest.mark.parametrize(
    ("action", "kind", "number"), [("error", OSError, errno.EIO), ("enospc", OSError, errno.ENOSPC)]
)
def test_an_error_is_raised_once_at_the_pass_that_was_named(arm, action, kind, number):
    arm(f"work.begin:{action}@2, work.end:error")
    failpoints.hit("work.begin")
    with pytest.raises(kind, match=r"failpoint work.begin") as caught:
        failpoints.hit("work.begin")
    assert caught.value.errno == number
    failpoints.hit("work.begin")


def test_memory_runs_out_as_it_does_without_and_with_torch(arm, monkeypatch):
    arm("step.done:oom,step.done:oom@2")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(MemoryError):
        failpoints.hit("step.done")

    class Torch:
        OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})

    monkeypatch.setitem(sys.modules, "torch", Torch)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        failpoints.hit("step.done")


def test_a_process_kills_itself_at_the_third_pass_and_says_that_failpoints_are_armed():
    done = run("work.begin:kill@3")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["passed"] * 2
    assert "failpoints are armed: CELORA_FAILPOINT=work.begin:kill@3" in done.stderr


def test_a_process_leaves_without_cleaning_up():
    done = run("work.begin:exit")
    assert (done.returncode, done.stdout) == (70, "")


def test_processes_that_share_a_folder_fire_once_together(tmp_path):
    assert run("work.begin:kill@2", CELORA_FAILPOINT_ONCE=str(tmp_path)).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["work.begin"]
    assert run("work.begin:kill@2", CELORA_FAILPOINT_ONCE=str(tmp_path)).stdout.split() == ["passed"] * 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nowhere:kill", "there is no failpoint 'nowhere'"),
        ("work.begin:explode", "there is no action 'explode'; use one of kill"),
        ("work.begin", "there is no action ''"),
        ("work.begin:kill@soon", "it is not name:action"),
        ("step.forward:oom>some", "it is not name:action"),
    ],
)
def test_what_arms_nothing_is_refused_with_a_reason(text, reason):
    with pytest.raises(SettingsError, match=reason):
        failpoints.parse(text)


def test_every_failpoint_is_placed_once_at_least_and_none_without_a_name():
    found = {
        name
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for name in re.findall(r'\bhit\("([^"]+)"[,)]', path.read_text(encoding="utf-8"))
    }
    assert sorted(FAILPOINTS) == sorted(found)


def test_the_docs_list_every_failpoint():
    page = ROOT / "docs" / "failpoints.md"
    if os.environ.get("WRITE_DOCS"):
        page.write_text(docs_page(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == docs_page(), "write it anew with WRITE_DOCS=1"


def docs_page():
    about = failpoints.__doc__.split("\n\n", 1)[1].strip().replace("``", "`")
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in FAILPOINTS.items())
    return f"""# Failpoints

Named places where a test makes a process of celora die, stop or fail. They are off unless the environment arms them,
and a process in which one is armed says so in its log. Never set the variable on an installation that you need.

Written by `WRITE_DOCS=1 make test ARGS=tests/settings/test_failpoints.py`; a test compares it with the code.

{about}

| failpoint | state of the process |
|---|---|
{rows}
"""
