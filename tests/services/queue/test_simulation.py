"""Simulations from files and from the record."""

import pytest

from celora.errors import SettingsError
from celora.models import workers
from celora.models.database import get_database
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.services.queue import simulation

SCENARIO = {"cluster": [{"type": "h100"}], "jobs": [{"tenant": "a", "count": 4, "minutes": 10}]}


def test_what_is_written_is_read_again(tmp_path):
    simulation.write_file(tmp_path / "s.yaml", SCENARIO)
    assert simulation.read_file(tmp_path / "s.yaml") == SCENARIO


@pytest.mark.parametrize("content", [b"\xff\xfe", b"- 1", b"a: [", b"!!python/object/apply:os.getcwd []", None])
def test_a_file_that_is_no_scenario_is_refused(tmp_path, content):
    path = tmp_path / "s.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError):
        simulation.read_file(path)


def test_a_weight_and_a_half_life_are_tried_without_changing_the_scenario(home):
    found = simulation.changed(SCENARIO, weights={"a": 3.0}, half_life_hours=2)
    assert (found["tenants"], found["settings"]) == ({"a": {"weight": 3.0}}, {"half_life_hours": 2})
    assert "tenants" not in SCENARIO
    reports = simulation.run(found, ["fair", "fifo", "priority"])
    assert [each.policy for each in reports] == ["fair", "fifo", "priority"]
    assert {each.longest_s for each in reports} == {1800.0}
    assert simulation.plain(reports[0])["tenants"][0]["jobs"] == 4


def test_the_record_is_a_scenario(home):
    database = get_database()
    database.migrate()
    with pytest.raises(SettingsError, match="no GPU worker is online"):
        simulation.record_scenario()
    with database.transaction(Scope.everything) as session:
        facts = {"host": "h", "pid": 1, "kind": "gpu", "gpu_type": "t4", "memory_bytes": 16 * 2**30}
        workers.register(session, "t4@h", queues=["gpu.t4"], slots=2, **facts)
        for number in range(3):
            spec = parse_spec({"base_model": "b", "dataset": "/d", "tenant": "acme", "priority": number})
            accept.submit(session, job_id=f"j{number}", spec=spec)
    found = simulation.record_scenario()
    assert found["cluster"] == [{"type": "t4", "count": 2, "memory_gib": 16.0, "tenant": "", "labels": []}]
    assert [(job["id"], job["priority"], job["tenant"]) for job in found["jobs"]] == [
        ("j0", 0, "acme"), ("j1", 1, "acme"), ("j2", 2, "acme")
    ]  # fmt: skip
    (report,) = simulation.run(found, ["fair"])
    assert report.tenants[0].jobs == 3
