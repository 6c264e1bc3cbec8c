"""Processes that are watched: restarted when they die, gone when they are stopped, gone when we are killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from celora.workers.services import Service, Services


def until(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(pid):
    """Gone, or a zombie that only its new parent can collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def service(tmp_path, program):
    return Service(
        name="one", command=[sys.executable, "-c", program], environment=dict(os.environ), log=tmp_path / "one.log"
    )


def test_what_dies_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr("celora.workers.services.RESTART_S", (0.05,))
    services = Services(tmp_path)
    one = service(tmp_path, "print('up', flush=True)")
    services.start(one)
    first = one.process.pid
    one.process.wait()

    def restarted():
        services.look()
        return one.process.pid != first

    until(restarted)
    services.stop(1)
    assert (tmp_path / "one.log").read_text().startswith("up")


def test_one_that_ignores_the_request_to_leave_is_killed_with_its_children(tmp_path):
    program = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    services = Services(tmp_path)
    one = service(tmp_path, program)
    services.start(one)
    until(lambda: (tmp_path / "one.log").read_text().strip().isdigit())
    child = int((tmp_path / "one.log").read_text())
    services.stop(0.2)
    assert not one.alive()
    until(lambda: ended(child))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of their parent's death on Linux only")
def test_when_we_are_killed_our_processes_end_too(tmp_path):
    program = f"""
import os, sys, time, pathlib
from celora.workers.services import Service, Services
services = Services(pathlib.Path({str(tmp_path)!r}))
services.start(Service(name="one", command=[sys.executable, "-c", "import time; time.sleep(600)"],
                       environment=dict(os.environ), log=pathlib.Path({str(tmp_path / "x.log")!r})))
print(services.all[0].process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: ended(child))
