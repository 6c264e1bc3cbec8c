"""A name that was given without ``--tenant``: whose it is, and what is printed for the next step."""

import re

import pytest

from celora.cli.open_record import record
from celora.cli.tenants import tenant_of, tenant_option
from celora.errors import NotFoundError
from celora.models.scope.scope import Scope
from celora.models.tables import Dataset

JOB = ("--base-model", "smollm2-135m-instruct")
PRINTED = re.compile(r"(?:See it|Follow it|Let it go on|Train on it): (.+)")


@pytest.fixture
def dataset():
    """Registers a version of a dataset of a tenant."""

    def make(tenant, name="faq", version=1):
        with record().transaction(Scope.everything) as session:
            session.add(Dataset(**_row(session, tenant, name, version)))

    return make


def _row(session, tenant, name, version):
    from celora.models.database import now
    from celora.models.rows import upsert_insert
    from celora.models.tables import Tenant

    session.execute(
        upsert_insert(session, Tenant).values(name=tenant, created_at=now(session)).on_conflict_do_nothing()
    )
    return {"tenant": tenant, "name": name, "version": version, "uri": "file:///d", "sha256": f"{tenant:0<64}"[:64],
            "rows": 1, "size_bytes": 1, "created_at": now(session)}  # fmt: skip


def hints(result):
    """The commands that a result prints as the next step; two on one line are three blanks apart."""
    return [one.strip() for line in PRINTED.findall(result.stdout) for one in line.split("   ")]


def test_a_name_that_one_tenant_alone_has_needs_no_tenant(dataset):
    dataset("acme")
    assert tenant_of(None, ["faq"], Dataset) == "acme"
    assert tenant_of(None, ["faq@1"], Dataset) == "acme"


def test_the_default_tenant_goes_first(dataset):
    dataset("acme")
    dataset("default")
    assert tenant_of(None, ["faq"], Dataset) == "default"


def test_a_name_of_several_tenants_is_refused_with_their_names(dataset):
    dataset("acme")
    dataset("beta")
    with pytest.raises(NotFoundError, match=r"faq is a name of the tenants acme, beta. Say which: --tenant NAME"):
        tenant_of(None, ["faq"], Dataset)


def test_a_tenant_that_is_given_is_taken_and_a_name_that_nobody_has_is_the_default_tenants(dataset):
    dataset("acme")
    assert tenant_of("acme", ["another"], Dataset) == "acme"
    assert tenant_of(None, ["another"], Dataset) == "default"
    assert [tenant_option(tenant) for tenant in ("default", "acme")] == ["", " --tenant acme"]


@pytest.mark.parametrize("tenant", ["default", "acme"])
def test_every_command_that_is_printed_as_the_next_step_runs(celora, rows, tmp_path, tenant):
    """The job file names the tenant; the person who copies the next command need not know it."""
    (tmp_path / "job.yaml").write_text(
        f"base_model: smollm2-135m-instruct\ndataset: train.jsonl\ntenant: {tenant}\n", encoding="utf-8"
    )
    celora("schedule", "add", "t", "--every", "6h", "--spec", "job.yaml")
    results = [
        celora("schedule", "add", "u", "--every", "6h", "--spec", "job.yaml"),
        celora("schedule", "run-now", "t"),
        celora("schedule", "pause", "t"),
        celora("submit", "job.yaml"),
    ]
    assert [result.exit_code for result in results] == [0, 0, 0, 0], [result.stderr for result in results]
    printed = [hint for result in results for hint in hints(result)]
    assert [hint.split()[1] for hint in printed] == ["schedule", "status", "schedule", "status", "logs"]
    for hint in printed:
        program, *words = hint.removesuffix(" -f").split()
        done = celora(*words)
        assert (program, done.exit_code) == ("celora", 0), f"{hint}: {done.stderr}"
    for words in (("show", "t"), ("pause", "t"), ("resume", "t"), ("remove", "t")):
        assert celora("schedule", *words).exit_code == 0, words


@pytest.mark.slow
@pytest.mark.parametrize("tenant", ["default", "acme"])
def test_the_next_step_after_a_dataset_runs_for_its_tenant(celora, rows, tenant):
    added = celora("datasets", "add", rows, "--name", "faq", "--tenant", tenant)
    (hint,) = hints(added)
    words = hint.replace("NAME", "smollm2-135m-instruct").split()[1:]
    assert celora(*words).exit_code == 0
    for words in (("show", "faq"), ("show", "faq@1"), ("rows", "faq", "--count")):
        assert celora("datasets", *words).exit_code == 0
