"""Processes that are watched: restarted when they die, gone when they are stopped, gone when we are killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

from celora.workers.node.processes import Service, Services


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
    monkeypatch.setattr("celora.workers.node.processes.RESTART_S", (0.05,))
    services = Services(tmp_path)
    one = service(tmp_path, "print('up', flush=True)")
    services.start(one)
    first = one.process.pid
    one.process.wait()

    def restarted():
        services.restart_ended()
        return one.process.pid != first

    until(restarted)
    services.stop(1)
    assert (tmp_path / "one.log").read_text().startswith("up")


def test_one_that_was_asked_to_leave_stays_away_until_its_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("celora.workers.node.processes.RESTART_S", (0.0,))
    asked = set()
    services = Services(tmp_path, stays_away=asked.__contains__)
    one = service(tmp_path, "print('up', flush=True)")
    services.start(one)
    first = one.process.pid
    asked.add(first)
    one.process.wait()
    for _ in range(3):
        services.restart_ended()
    assert one.process.pid == first
    asked.clear()
    services.restart_ended()
    assert one.process.pid == first
    one.start(tmp_path)
    one.process.wait()
    until(lambda: services.restart_ended() or one.process.pid not in {first, None})
    assert not one.left
    services.stop(1)


def test_a_log_that_is_too_large_is_rotated_while_its_process_writes_and_at_its_start(tmp_path):
    one = service(tmp_path, "for line in iter(input, ''): print(line * 1000, flush=True)")
    one.log_bytes = 1500
    one.log.write_text("old\n" * 1000)
    services = Services(tmp_path)
    program = "import time\nfor n in range(10): print(str(n) * 1000, flush=True); time.sleep(0.05)\ntime.sleep(600)"
    one.command = [sys.executable, "-c", program]
    services.start(one)
    assert one.log.with_name("one.log.1").read_text().startswith("old")
    until(
        lambda: (
            services.restart_ended() or "9" * 1000 in one.log.read_text() + one.log.with_name("one.log.1").read_text()
        )
    )
    services.restart_ended()
    assert one.log.stat().st_size <= 3000
    services.stop(1)


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
from celora.workers.node.processes import Service, Services
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
