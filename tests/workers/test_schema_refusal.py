"""A worker beside a record of another version: it does not start, and says in a sentence what to do."""

import os
import subprocess
import sys

import pytest
from sqlalchemy import text

from celora.models.database import Database
from celora.models.migrations import schema
from celora.models.scope.scope import Scope

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("of", ["newer", "older"])
def test_a_worker_refuses_a_record_that_is_newer_or_older_than_it(home, of):
    record = Database(f"sqlite:///{home}/celora.db")
    record.migrate()
    if of == "newer":
        with record.session(Scope.everything) as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    else:
        schema.downgrade(record.url, "-1")
    record.dispose()
    command = [sys.executable, "-m", "celery", "-A", "celora.workers", "worker", "-Q", "celora", "-n", "control@here"]
    environment = {**os.environ, "CELORA_HOME": str(home), "CELORA_BROKER_URL": "redis://:none@127.0.0.1:9/0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("celora: ")]
    assert f"is {of} than this celora (version " in sentence
    remedy = {"newer": "Install the celora version that the other machines run.", "older": "Run `celora migrate`."}
    assert sentence.endswith(remedy[of])
