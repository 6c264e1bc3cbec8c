"""A resident trainer host for tests: the real program, and a client of its protocol."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from waiting import until

from celora.storage.unix_socket import short_path
from celora.tuning.trainer.host_messages import (
    ExitReport,
    Final,
    Greeting,
    Opening,
    exit_path,
    line_of,
    owner_argument,
)


class Hosted:
    """A client's connection that carries one run."""

    def __init__(self, place, request=None, opening=None, log=None):
        self.socket, self.seen, self.last = socket.socket(socket.AF_UNIX), [], None
        with short_path(place) as short:
            self.socket.connect(short)
        self.lines = self.socket.makefile("rb")
        self.greeting = Greeting.model_validate_json(self.lines.readline())
        self.request = request
        if request is not None:
            with Path(log or os.devnull).open("ab") as file:
                socket.send_fds(self.socket, [line_of(opening or Opening())], [file.fileno()])
            self.socket.sendall(line_of(request))

    def events(self):
        """Yield events; ``last`` is the line that is none."""
        for line in self.lines:
            message = json.loads(line)
            if "event" not in message:
                self.last = message
                return
            self.seen.append(message)
            yield message

    def until(self, name, step=None):
        for event in self.events():
            if event["event"] == name and step in {None, event.get("step")}:
                return event
        raise AssertionError(f"the run ended without {name} {step}: {self.seen[-3:]}, {self.last}")

    def control(self, op, **fields):
        given = {"op": op, "job": self.request.job, "attempt": self.request.attempt, **fields}
        try:
            self.socket.sendall(json.dumps(given).encode() + b"\n")
        except BrokenPipeError:
            told = [*self.seen, *self.events()][-3:]
            raise AssertionError(f"the run ended before {op}: {told}, {self.last}") from None

    def end(self):
        """The exit code of the run, its events before; None where the host died."""
        for _ in self.events():
            pass
        self.close()
        return None if self.last is None else Final.model_validate(self.last).exit

    def until_refused(self):
        """The reason of a refusal, which is the only line."""
        assert list(self.events()) == []
        self.close()
        return self.last["refused"]

    def of(self, name):
        return [event for event in self.seen if event["event"] == name]

    @property
    def names(self):
        return [event["event"] for event in self.seen]

    @property
    def result(self):
        return self.seen[-1]["result"]

    def close(self):
        self.lines.close()
        self.socket.close()


class Host:
    """The running program and the path of its socket."""

    def __init__(self, process, place, log):
        self.process, self.place, self.log = process, place, log

    def run(self, request, **options):
        return Hosted(self.place, request, **options)

    def state(self):
        client = Hosted(self.place)
        client.close()
        return client.greeting

    def report(self, generation):
        """The report of an ended generation, once it is there."""
        path = exit_path(self.place, generation)
        until(path.exists)
        return ExitReport.model_validate_json(path.read_bytes())


@contextmanager
def hosting(folder, *, idle_s=600, threads=1, owner=None, slots=1, **environment):
    """Start a host below a folder, wait for its socket, and end it."""
    folder.mkdir(exist_ok=True)
    place, log = folder / "trainer.sock", folder / "host.log"
    command = [
        sys.executable,
        "-m",
        "celora.tuning.trainer",
        "--serve",
        str(place),
        "--owner",
        owner or owner_argument(),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--idle-s", str(idle_s), "--threads", str(threads), "--slots", str(slots)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
            start_new_session=True,
        )
    try:
        until(lambda: place.exists() or process.poll() is not None)
        yield Host(process, place, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)  # the host ends with its parent
        process.wait()
