"""Real parts for every room's tests: both databases, a Valkey, and a home of one's own.

The PostgreSQL runs on a unix socket in a temporary folder (``chaos.servers``).
"""

import json
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from celora.models import database as databases
from celora.models.database import Database
from celora.models.jobs import accept
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.settings.settings import get_settings
from celora.storage.manifest import write_manifest

pytest_plugins = [
    "claimed_job",
    "competition",
    "live_installation",
    "served_api",
    "tiny_models",
    "worker_alone",
]  # fixtures of several rooms


hypothesis_settings.register_profile("celora", deadline=None)  # a loaded machine is slow, and no test is about that
hypothesis_settings.load_profile("celora")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty CELORA_HOME, and no other setting from outside."""
    for name in [name for name in os.environ if name.startswith("CELORA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CELORA_HOME", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    if "celora.workers.messages" in sys.modules:
        sys.modules["celora.workers.messages"].close_connection()  # the next test may have another broker
    for one in databases._databases.values():
        one.dispose()
    databases._databases.clear()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory):
    """A SQLite record with its tables, made once; a copy of it is quicker than a migration."""
    path = tmp_path_factory.mktemp("migrated") / "celora.db"
    made = Database(f"sqlite:///{path}")
    made.migrate()
    with made.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    made.dispose()
    return path


@pytest.fixture
def record(home, _migrated_file):
    """A migrated, empty SQLite record in the home in force."""
    shutil.copyfile(_migrated_file, home / "celora.db")
    return databases.get_database()


_QUICK = {"autovacuum": "off", "full_page_writes": "off", "jit": "off", "synchronous_commit": "off"}
"""PostgreSQL settings of a server whose data need not outlive the tests."""


@pytest.fixture(scope="session")
def postgres_url():
    """A PostgreSQL server's URL without a database name at its end: ``postgresql://…/{}?host=…``."""
    from chaos.servers import Postgres

    with tempfile.TemporaryDirectory(prefix="celora-pg-") as folder, Postgres(folder, options=_QUICK) as server:
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
    from records import empty

    record = _records(request.param)
    yield record
    empty(record)  # quicker than a database for each test


@pytest.fixture
def busy_record(database):
    """A record in which something of every kind has happened: ``records.fill`` says what."""
    from records import fill

    fill(database)
    return database


@pytest.fixture
def index_here(monkeypatch):
    """Lets a dataset be indexed in this process, by the function that the trainer process of an index calls.

    For tests of what follows from an index; tests/services/test_datasets.py starts the process, within its limits.
    """
    from celora.errors import CeloraError
    from celora.services import datasets
    from celora.tuning.rows.row_hashes import index
    from celora.workers.trainer.supervisor import TrainerError

    def run_here(request, on_event, **_):
        try:
            found = index(request, lambda event, **fields: on_event({"event": event, **fields}))
        except CeloraError as error:
            raise TrainerError({"code": error.code, "message": error.message, "hint": error.hint}) from None
        return found.model_dump(mode="json")

    monkeypatch.setattr(datasets, "run_once", run_here)


@pytest.fixture
def valkey(tmp_path):
    """The URL of a running Valkey server of one's own, with every right."""
    from celora.workers.node.embedded_broker import EmbeddedBroker

    server = EmbeddedBroker(tmp_path / "valkey")
    server.start()
    yield server.operator_url
    server.stop()


@pytest.fixture
def contestant():
    """Makes a completed job with a published adapter and the rows of its evaluation, in the home in force.

    ``answers`` are those of each side to the rows ``p0``, ``p1`` …, whose right answers are ``r0``, ``r1`` ….
    """
    return _contestant


def _contestant(job_id, answers, *, met=None, must_pass=None, challenge=None, base="tiny", tenant="default", **fields):
    from celora.models.database import get_database
    from celora.models.jobs import transitions
    from celora.models.spec import parse_spec
    from celora.models.states import Stage
    from celora.models.tables import Job
    from celora.storage.artifacts import Artifacts
    from celora.tuning.batches.row_losses import RowLosses
    from celora.tuning.evaluation.measures import METRICS_VERSION
    from celora.tuning.evaluation.readings import Reading
    from celora.tuning.evaluation.result_rows import lines

    def write(folder, name, said):
        count = len(next(iter(said.values())))
        rows = [{"prompt": f"p{i}", "reference": f"r{i}", "line": i + 1} for i in range(count)]
        losses = {
            side: RowLosses([1.0 if each[i] == f"r{i}" else 3.0 for i in range(count)], [2] * count)
            for side, each in said.items()
        }
        given = {side: [Reading.plain(text) for text in each] for side, each in said.items()}
        references = [Reading.plain(row["reference"]) for row in rows]
        made = lines(rows, losses, range(count), given, ["exact_match"], references=references)
        (folder / f"rows.{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))

    artifacts, database = Artifacts(get_settings().artifacts), get_database()
    sets = {"eval": answers} | ({"must_pass": must_pass} if must_pass else {})
    uris = {}
    for kind in ("evaluation", "published"):
        with tempfile.TemporaryDirectory() as folder:
            if kind == "evaluation":
                for name, said in sets.items():
                    write(Path(folder), name, said)
                (Path(folder) / "evaluation.json").write_text(json.dumps({"settings": {"max_new_tokens": 8}}))
            write_manifest(Path(folder))
            uris[kind] = artifacts.uri("jobs", job_id, "attempt-1", kind)
            artifacts.put_folder(Path(folder), uris[kind])
    spec = {"base_model": base, "dataset": "/data/train.jsonl", "eval_dataset": "/data/eval.jsonl", "tenant": tenant}
    metrics = {"base": {}, "tuned": {}, "sets": {name: {"rows": len(answers["tuned"])} for name in sets}}
    adapter = {"name": f"tiny-{job_id}", "uri": uris["published"], "base_name": base, "base_revision": "r1", "rank": 4,
               "metrics": metrics, "size_bytes": 1}  # fmt: skip
    evaluation = {"uri": uris["evaluation"], "metrics_version": METRICS_VERSION} | ({"champion": met} if met else {})
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id=job_id, spec=parse_spec(spec | fields))
        for stage in Stage:
            if stage in (Stage.PREPARE, Stage.TRAIN):
                transitions.send(session, job_id, 1, stage, queue="q", gpu_type="cpu")
            assert transitions.claim(session, job_id, 1, stage, worker_id="w", lease_s=90)
            values = {
                Stage.PREPARE: {"base": {"name": base, "revision": "r1"}, "prepared": {}},
                Stage.EVALUATE: {"metrics": metrics, "evaluation": evaluation},
                Stage.PUBLISH: {"adapter": adapter, "summary": {"id": job_id}},
            }.get(stage, {})
            if stage is Stage.PUBLISH and challenge is not None:
                session.flush()
                values["challenge"] = challenge(session, session.get_one(Job, job_id), artifacts)
            assert transitions.advance(session, Claim(job_id, 1, "w"), stage, values)
    return job_id


def _administer(url, statement):
    import psycopg

    with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def legal_history():
    """A pure check of a job's events (dicts with kind, attempt, data): every fault in words; an empty list is legal."""
    from chaos.legal import faults_of

    return faults_of
