"""The commands that start the whole system, as people run them: a process, a signal, and nothing left."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from urllib.request import urlopen

import psutil
import pytest

pytestmark = pytest.mark.slow
CELORA = [sys.executable, "-c", "from celora.cli.app import main; main()"]


def processes_of(home):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CELORA_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def start(home, monkeypatch):
    """Starts ``celora WORDS`` in the test's home, with a broker of its own."""
    monkeypatch.delenv("CELORA_BROKER_URL")
    monkeypatch.setenv("CELORA_TRAINER_THREADS", "1")
    started = []

    def run(*words):
        process = subprocess.Popen([*CELORA, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def read_until(process, words):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"it ended without {words!r}: {''.join(lines)}")


def test_up_runs_everything_and_stops_cleanly(start, home):
    process = start("up")
    told = "".join(read_until(process, "ready"))
    assert "embedded Valkey" in told
    environment = home / "celora.env"
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    (url,) = re.findall(r"CELORA_API_URL='(http://127\.0\.0\.1:\d+)/v1'", environment.read_text())
    assert f"API {url}/v1" in told
    with urlopen(f"{url}/readyz", timeout=60) as answer:  # noqa: S310  (its own)
        assert json.load(answer) == {"status": "ready"}
    seen = subprocess.run([*CELORA, "workers", "--json"], capture_output=True, text=True, check=True)
    workers = json.loads(seen.stdout)
    assert {worker["status"] for worker in workers} == {"online"}
    assert {queue for worker in workers for queue in worker["queues"]} >= {"celora", "prep", "gpu.cpu"}

    second = subprocess.run([*CELORA, "up"], capture_output=True, text=True, check=False)
    assert second.returncode == 64
    assert "runs in" in second.stderr

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=240) == 0
    assert processes_of(home) == []
    assert not environment.exists()


def test_an_interrupted_demo_leaves_no_process_behind(start, home):
    process = start("demo")
    read_until(process, "prepare")
    assert len(processes_of(home)) > 5
    os.kill(process.pid, signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(timeout=240) == 130
    assert "interrupted" in rest
    assert processes_of(home) == []
