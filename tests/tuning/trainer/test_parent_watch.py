"""A trainer without a supervisor, through the supervisor's own TrainerProcess: it notices, saves, and is gone."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import until

from celora.tuning.training import checkpoint

NOTICED = "the supervisor is gone"

SUPERVISOR = """
import json, os, sys
from pathlib import Path
from celora.tuning.protocol import parse_request
from celora.workers.trainer.process import TrainerProcess

trainer = TrainerProcess(parse_request(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), {"OMP_NUM_THREADS": "1"})
print(json.dumps({"pid": trainer.pid}), flush=True)
while (events := trainer.events(1.0)) is not None:
    for event in events:
        print(json.dumps(event), flush=True)
"""


class Orphan:
    """A supervisor in a process of its own, and its trainer."""

    def __init__(self, process, log):
        self.process, self.log = process, log
        self.pid = json.loads(process.stdout.readline())["pid"]
        self.started = psutil.Process(self.pid).create_time()

    def until(self, event, step=None):
        for line in self.process.stdout:
            found = json.loads(line)
            if found["event"] == event and step in {None, found.get("step")}:
                return found
        raise AssertionError(f"no {event}: {self.log.read_text()}")

    def kill(self):
        """SIGKILL the supervisor, and wait until the trainer says that it noticed."""
        self.process.kill()
        self.process.wait()
        until(lambda: NOTICED in self.log.read_text(), self.log.read_text)

    def await_end(self):
        """Wait until the trainer is gone; True if it left before its grace was over."""
        until(lambda: not self.alive(), self.log.read_text)
        return "still here after the grace" not in self.log.read_text()

    def alive(self):
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@pytest.fixture
def supervised(tmp_path):
    """Starts a supervisor and its trainer on a request; nothing of it outlives the test."""
    orphans = []

    def start(request, **environment):
        path = tmp_path / "request.json"
        path.write_text(request.model_dump_json())
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(path), str(tmp_path / "log")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        orphans.append(Orphan(process, tmp_path / "log"))
        return orphans[-1]

    yield start
    for orphan in orphans:
        orphan.process.kill()
        orphan.process.wait()
        orphan.process.stdout.close()
        if orphan.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(orphan.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_trainer_that_trains_notices_saves_and_is_gone(make_request, supervised):
    request = make_request(max_steps=100_000)
    orphan = supervised(request)
    orphan.until("progress", step=2)
    orphan.kill()
    assert orphan.await_end()
    assert checkpoint.committed(Path(request.out_dir) / "checkpoints")


@pytest.mark.slow
def test_a_trainer_that_loads_is_gone_without_its_grace(make_request, supervised):
    orphan = supervised(make_request(max_steps=100_000))
    orphan.until("phase")
    orphan.kill()
    assert orphan.await_end()


@pytest.mark.slow
def test_a_step_that_never_ends_is_ended_after_the_grace_with_all_stacks_in_the_log(make_request, supervised, tmp_path):
    request = make_request(max_steps=100_000, request={"grace_s": 0.5})
    orphan = supervised(request, CELORA_FAILPOINT="step.forward:sleep=600@9", CELORA_FAILPOINT_ONCE=str(tmp_path))
    orphan.until("progress", step=4)
    until((tmp_path / "step.forward").exists)  # it sleeps: one that is asked between two steps would just leave
    orphan.kill()
    assert not orphan.await_end()
    assert "in compute_loss" in orphan.log.read_text()


RUN = """
import os, subprocess, sys, threading
from celora.tuning.trainer.parent_watch import ParentWatch, dump_on_request, keep_logging

keep_logging()
dump_on_request()
parent = ParentWatch(0)
stop = parent.add_job("job").stop
parent.start(30)
{body}
"""


@contextlib.contextmanager
def running(body, **options):
    command = [sys.executable, "-c", RUN.format(body=body)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_stacks_are_dumped_on_request_also_while_a_c_call_holds_the_interpreter():
    busy = "import re\nprint('busy', flush=True)\nre.match('(a+)+$', 'a' * 40 + 'b')"
    with running(busy) as process:
        assert process.stdout.readline() == "busy\n"
        until(lambda: psutil.Process(process.pid).cpu_times().user >= 0.2)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr.readline().startswith("Thread 0x")
        dumped = [process.stderr.readline() for _ in range(6)]
        assert any("parent_watch.py" in line for line in dumped)
        assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        assert process.stderr.readline() != ""


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "cancel", "end of input"])
def test_each_way_of_asking_is_noticed_while_the_main_thread_is_deep_in_a_c_call(how):
    body = (
        "threading.Thread(target=lambda: (stop.wait(), print('noticed', flush=True), os._exit(0))).start()\n"
        "print('up', flush=True)\nthreading.Lock().acquire()\nlock = threading.Lock(); lock.acquire(); lock.acquire()"
    )
    with running(body) as process:
        assert process.stdout.readline() == "up\n"
        match how:
            case "cancel":
                process.stdin.write('{"op": "cancel", "job": "another"}\n{"op": "cancel", "job": "job"}\n')
                process.stdin.flush()
            case "end of input":
                process.stdin.close()
            case _:
                process.send_signal(signal.Signals[how])
        assert process.stdout.readline() == "noticed\n"


def test_lines_are_for_the_job_that_they_name_and_signals_for_every_job():
    body = (
        "other = parent.add_job('other')\nprint('up', flush=True)\n"
        "stop.wait(60)\nprint(other.stop.is_set(), flush=True)\n"
        "other.acks.wait(5)\nprint('stored', other.stop.is_set(), flush=True)\n"
        "other.stop.wait(60)\nprint('stopped', flush=True)"
    )
    with running(body) as process:
        assert process.stdout.readline() == "up\n"
        process.stdin.write('{"op": "cancel", "job": "job"}\n')
        process.stdin.flush()
        assert process.stdout.readline() == "False\n"
        process.stdin.write('{"op": "kept", "job": "job", "step": 9}\n{"op": "kept", "job": "other", "step": 5}\n')
        process.stdin.flush()
        assert process.stdout.readline() == "stored False\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopped\n"


def test_a_job_that_is_over_is_watched_no_more():
    body = (
        "parent.drop_job('job')\nlast = parent.add_job('last').stop\nprint('up', flush=True)\n"
        "last.wait(60)\nprint(stop.is_set(), flush=True)"
    )
    with running(body) as process:
        assert process.stdout.readline() == "up\n"
        process.stdin.write('{"op": "cancel", "job": "job"}\n{"op": "cancel", "job": "last"}\n')
        process.stdin.flush()
        assert process.stdout.readline() == "False\n"


def test_the_end_of_the_thread_that_started_it_is_not_the_end_of_its_supervisor():
    with running("print('up', flush=True)\nprint(stop.wait(60), parent.orphaned, flush=True)") as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGHUP)  # what the kernel sends when a thread of the parent ends
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "True False\n"


@pytest.mark.slow
def test_an_orphan_takes_along_what_it_started():
    body = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\nstop.wait()\n"
        "while not parent.orphaned: pass\nparent.end(75)"
    )
    with running(body, start_new_session=True) as process:
        child = psutil.Process(int(process.stdout.readline()))
        process.stdin.close()
        process.wait(timeout=240)
        child.wait(timeout=240)


def test_a_log_that_cannot_be_written_stops_nothing():
    read_end, write_end = os.pipe()
    body = f"for n in range(3): print('x' * 9000)\nos.write({write_end}, b'through')"
    with Path("/dev/full").open("wb") as full, os.fdopen(read_end, "rb") as result:
        subprocess.run(
            [sys.executable, "-c", RUN.format(body=body)],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
            pass_fds=[write_end],
            check=False,
            timeout=240,
        )
        os.close(write_end)
        assert result.read() == b"through"
