# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""The record, the broker and the API of ``benchmarks/door.py``, and the requests of its clients."""

import http.client
import os
import socket
import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tenants
from sqlalchemy import text

from celora.models.database import get_database
from celora.services.tenants import keys
from celora.settings.settings import get_settings

FILES = 100
"""Files of each tenant."""
REQUEST_ROWS = """
INSERT INTO job_request (job_id, tenant, model, named, training_file, method, hyperparameters, body_sha256, created_at)
SELECT id, tenant, 'gpt-4o-mini', 'llama-8b', 'file-none', 'supervised', '{"n_epochs": 3}', md5(id) || md5(id),
  created_at FROM job
"""
FILE_ROWS = """
INSERT INTO file (id, tenant, filename, purpose, size_bytes, sha256, uri, status, check_sent_at, created_at)
SELECT 'file-' || t.name || '-' || g, t.name, 'rows.jsonl', 'fine-tune', 1000, md5(t.name) || md5(t.name),
  'file:///none/' || t.name || '/' || g, 'processed', now(), now() - (g || ' seconds')::interval
FROM tenant t, generate_series(1, :files) g WHERE t.name LIKE 'team-%'
"""
CHECKPOINT_ROWS = """
INSERT INTO checkpoint (job_id, attempt, step, uri, size_bytes, manifest_sha256, created_at)
SELECT 'long', 1, g * 1000, 'file:///none', 1000, md5('a') || md5('b'), now() FROM generate_series(1, 20) g
"""


@dataclass
class Door:
    """A running API, and a key of each tenant."""

    port: int
    process: Any
    keys: dict[str, str]
    broker: Any
    _own: threading.local = field(default_factory=threading.local)

    def ask(self, method: str, path: str, tenant: str = "team-00", body: bytes | None = None) -> tuple[int, bytes]:
        """Send a request on this thread's connection."""
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            self._own.connection.connect()
            self._own.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        headers = {"authorization": f"Bearer {self.keys[tenant]}"}
        self._own.connection.request(method, path, body=body, headers=headers)
        answer = self._own.connection.getresponse()
        return answer.status, answer.read()

    def rss_bytes(self, peak: bool) -> int:  # noqa: FBT001  (one of two lines of a file)
        """Return the memory of the API, or the largest since it was reset."""
        name = "VmHWM" if peak else "VmRSS"
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

    def reset_peak(self) -> None:
        """Forget the largest memory so far."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def written_bytes(self) -> int:
        """Return the bytes that the API has written to files and sockets."""
        lines = Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


@contextmanager
def opened(jobs: int, folder: Path) -> Iterator[Door]:
    """Make the record and the broker, and serve them."""
    from chaos.servers import Postgres, Valkey  # noqa: PLC0415  (parts of the tests)
    from served_api import as_command  # noqa: PLC0415

    with ExitStack() as stack:
        server = stack.enter_context(Postgres(folder / "postgres", options={"jit": "off"}))
        broker = stack.enter_context(Valkey(folder / "valkey"))
        os.environ["CELORA_DATABASE_URL"] = server.url.format("postgres")
        os.environ["CELORA_BROKER_URL"] = broker.application_url
        os.environ["CELORA_HOME"] = str(folder / "home")
        get_settings.cache_clear()
        get_database().migrate()
        fill(jobs)
        made = {tenant: keys.create_key(tenant).key for tenant in map(tenant_name, range(tenants.TENANTS))}
        port, process = stack.enter_context(as_command())
        yield Door(port, process, made, broker)
        get_database().dispose()


def tenant_name(number: int) -> str:
    """Return the name of a tenant."""
    return f"team-{number:02d}"


def fill(jobs: int) -> None:
    """Make the rows of ``benchmarks/tenants.py``, and those of jobs that came over HTTP."""
    database = get_database()
    tenants.fill(database, jobs)
    with database.engine.begin() as connection, tenants.without_indexes(connection, "job_request"):
        connection.execute(text(REQUEST_ROWS))
        connection.execute(text(FILE_ROWS), {"files": FILES})
        connection.execute(text(CHECKPOINT_ROWS))
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def percentiles(taken_ms: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile."""
    ordered = sorted(taken_ms)
    return {"p50": round(statistics.median(ordered), 2), "p99": round(ordered[int(len(ordered) * 0.99)], 2)}
