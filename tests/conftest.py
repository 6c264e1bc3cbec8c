"""Real parts for every room's tests: both databases, a Valkey, and a home of one's own.

The PostgreSQL runs on a unix socket in a temporary folder (``chaos.servers``).
"""

import os
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from celora.models import database as databases
from celora.models.database import Database
from celora.models.tables import Table
from celora.settings.settings import get_settings

sys.path.insert(0, str(Path(__file__).parent))  # so that ``chaos.NAME`` and ``records`` are modules


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty CELORA_HOME, and no other setting from outside."""
    for name in [name for name in os.environ if name.startswith("CELORA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CELORA_HOME", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    for one in databases._databases.values():
        one.dispose()
    databases._databases.clear()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def postgres_url():
    """A PostgreSQL server's URL without a database name at its end: ``postgresql://…/{}?host=…``."""
    from chaos.servers import Postgres

    with tempfile.TemporaryDirectory(prefix="celora-pg-") as folder, Postgres(folder) as server:
        yield server.url


@pytest.fixture
def new_postgres(postgres_url):
    """Makes an empty PostgreSQL database and returns its URL; all are dropped in the end."""
    names = []

    def make():
        name = f"test_{uuid.uuid4().hex[:12]}"
        _administer(postgres_url, f'CREATE DATABASE "{name}"')
        names.append(name)
        return postgres_url.format(name)

    yield make
    for name in names:
        _administer(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def _records(request, tmp_path_factory):
    """The migrated databases of this session, each made at its first use."""
    made = {}

    def record_of(kind):
        if kind not in made:
            if kind == "sqlite":
                url = f"sqlite:///{tmp_path_factory.mktemp('record')}/celora.db"
            else:
                server = request.getfixturevalue("postgres_url")
                _administer(server, "CREATE DATABASE record")
                url = server.format("record")
            made[kind] = Database(url)
            made[kind].migrate()
        return made[kind]

    yield record_of
    for one in made.values():
        one.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request, tmp_path):
    """The URL of a database without tables, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    return request.getfixturevalue("new_postgres")()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, _records):
    """A migrated, empty record, of each kind."""
    record = _records(request.param)
    yield record
    with record.transaction() as session:  # quicker than a database for each test
        for table in reversed(Table.metadata.sorted_tables):
            session.execute(table.delete())


@pytest.fixture
def busy_record(database):
    """A record in which something of every kind has happened: ``records.fill`` says what."""
    from records import fill

    fill(database)
    return database


@pytest.fixture
def valkey(tmp_path):
    """The URL of a running Valkey server of one's own, password included."""
    from celora.workers.broker import EmbeddedBroker

    server = EmbeddedBroker(tmp_path / "valkey")
    server.start()
    yield server.url
    server.stop()


def _administer(url, statement):
    import psycopg

    with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def legal_history():
    """A pure check of a job's events (dicts with kind, attempt, data): every fault in words; an empty list is legal."""
    from chaos.legal import faults_of

    return faults_of
