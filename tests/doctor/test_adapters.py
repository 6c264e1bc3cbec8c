"""`celora doctor --adapters`: what the record says about each published adapter."""

import pytest
from sqlalchemy import update

from celora.doctor.adapters import adapters, judged_adapters
from celora.doctor.finding import Level
from celora.models.scope.scope import Scope
from celora.models.tables import Adapter, Job
from celora.settings.settings import get_settings


@pytest.fixture
def published(database):
    """Publish an adapter of a job with this base and receipt."""
    from celora.models.jobs import accept
    from celora.models.spec import parse_spec

    def publish(name, base, receipt):
        with database.transaction(Scope.everything) as session:
            accept.submit(session, job_id=name, spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
            session.execute(update(Job).where(Job.id == name).values(base=base, prepared={"receipt": receipt}))
            session.add(
                Adapter(
                    id=name,
                    name=f"{name}-adapter",
                    tenant="default",
                    base_name="b",
                    base_revision="r",
                    uri="file:///a",
                    rank=8,
                    created_at=database.now(session),
                )
            )

    return publish


def findings(database):
    with database.session(Scope.everything) as session:
        return list(judged_adapters(session))


def test_a_touched_adapter_is_named_with_what_to_do(database, published):
    published("old", {"kind": "gguf", "model_type": "llama"}, {"template": "own"})
    published("good", {"kind": "hub", "model_type": "llama"}, {"template": "own"})
    (finding,) = findings(database)
    assert (finding.level, finding.check) == (Level.WARN, "adapters.old")
    assert finding.found.startswith("old-adapter of default: its base came from a .gguf file")
    assert finding.fix.startswith("Train it again")


def test_a_record_without_touched_adapters_is_well(database, published):
    assert [finding.found for finding in findings(database)] == ["none is published"]
    published("good", {"kind": "hub", "model_type": "llama"}, {"template": "own"})
    (finding,) = findings(database)
    assert (finding.level, finding.found) == (Level.OK, "1 published; no mended fault touches them")


def test_a_record_without_tables_is_a_finding_and_no_error(home):
    (finding,) = adapters(get_settings())
    assert finding.level is Level.FAIL
