"""Jobs of the tenant that this machine is, without a broker behind them."""

import pytest
from moved_job import Moved

from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.services import jobs as native


@pytest.fixture
def no_messages(monkeypatch):
    monkeypatch.setattr(native, "request_tick", lambda: None)
    monkeypatch.setattr(native.messages, "send_finetune", lambda *_: True)
    monkeypatch.setattr(native.results, "announce", lambda *_, **__: True)


@pytest.fixture
def submit(record, no_messages):
    """Makes a job, as the command line does."""

    def make(job_id="job-1"):
        with record.transaction(Scope.everything) as session:
            accept.submit(session, job_id=job_id, spec=parse_spec({"base_model": "tiny", "dataset": "/d/rows.jsonl"}))
        return Moved(record, job_id)

    return make
