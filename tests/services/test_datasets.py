"""Files become versions of a name, read in a process of their own; new rows of a version by their content."""

import json

import pytest

from celora.errors import DataError, NotFoundError, SettingsError, TenantLimitError
from celora.models import datasets as record_of
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tenants.limits import set_limits
from celora.services import datasets


@pytest.fixture(autouse=True)
def record(home):
    database = get_database()
    database.migrate()
    return database


def write(path, *numbers):
    path.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) + "\n" for n in numbers))
    return path


def kept(home):
    folder = home / "artifacts" / "datasets"
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_a_file_becomes_the_next_version_and_the_same_content_is_the_one_that_it_was(home, tmp_path):
    events = []
    first = datasets.add(write(tmp_path / "faq.jsonl", 1, 2), name="faq", on_event=events.append)
    assert (first["version"], first["new"], first["rows"]) == (1, True, 2)
    assert first["size_bytes"] == (tmp_path / "faq.jsonl").stat().st_size
    second = datasets.add(write(tmp_path / "faq.jsonl", 2, 3, 3), name="faq")
    again = datasets.add(write(tmp_path / "other.jsonl", 1, 2), name="faq")
    assert (second["version"], again["version"], again["new"], again["uri"]) == (2, 1, False, first["uri"])
    rows = list(datasets.new_rows("faq", 1))
    assert [row["prompt"] for row in rows] == ["q3"]
    assert [row["prompt"] for row in datasets.new_rows("faq@1", None)] == ["q1", "q2"]
    assert datasets.count_new("faq@2", "faq@1") == 1
    assert datasets.count_new("faq@1", "faq@1") == 0
    with pytest.raises(NotFoundError, match="no version 7"):
        list(datasets.new_rows("faq", 7))
    with pytest.raises(NotFoundError, match="did you mean faq"):
        datasets.count_new("faq", "fag")
    with pytest.raises(NotFoundError):
        list(datasets.new_rows("faq", None, tenant="acme"))
    folder = home / "artifacts" / first["uri"].removeprefix(f"file://{home}/artifacts/")
    (folder.parent / datasets.HASHES).unlink()  # as where a submit brought the version
    assert datasets.count_new("faq@2", "faq@1") == 1
    assert (folder.parent / datasets.HASHES).stat().st_size == 2 * datasets.HASH_BYTES


@pytest.mark.parametrize("tenant", ["", "a/b", "a\0b", "\u202eevil", "x" * 300, ".."])
def test_a_name_that_no_tenant_can_have_makes_no_tenant(home, tmp_path, tenant):
    with pytest.raises(SettingsError, match="can't be a tenant's name"):
        datasets.add(write(tmp_path / "faq.jsonl", 1), name="faq", tenant=tenant)
    assert kept(home) == []


def test_a_file_that_cannot_be_trained_is_refused_and_nothing_is_kept(home, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "q", "completion": "a"}\n{"prompt"\n')
    with pytest.raises(DataError, match="1 bad line of 2: line 2"):
        datasets.add(tmp_path / "bad.jsonl", name="bad")
    assert kept(home) == []


@pytest.mark.parametrize(
    ("name", "path", "kind", "reason"),
    [
        ("a b", "faq.jsonl", SettingsError, "cannot be a dataset's name"),
        ("../faq", "faq.jsonl", SettingsError, "cannot be a dataset's name"),
        ("faq", "missing.jsonl", DataError, "missing.jsonl is no file here"),
        ("faq", "nothing", DataError, "has no data files that can be read"),
    ],
)
def test_what_cannot_be_added_is_refused_before_it_is_read(home, name, path, kind, reason):
    write(home / "faq.jsonl", 1)
    (home / "nothing").mkdir()
    with pytest.raises(kind, match=reason):
        datasets.add(home / path, name=name)
    assert kept(home) == []


def test_a_file_that_changes_while_it_is_read_is_no_version(home, record, monkeypatch):
    path, real = write(home / "faq.jsonl", 1, 2), datasets.run_once

    def overtaken(*args, **options):
        found = real(*args, **options)
        write(path, 1, 2, 3)
        return found

    monkeypatch.setattr(datasets, "run_once", overtaken)
    with pytest.raises(DataError, match="changed while it was read"):
        datasets.add(path, name="faq")
    with record.session(Scope.everything) as session:
        assert record_of.listed(session, tenant="default") == []


def test_a_dataset_beyond_the_storage_limit_is_not_copied(home, record):
    path = write(home / "faq.jsonl", 1, 2)
    datasets.add(path, name="faq", tenant="acme")
    with record.transaction(Scope.everything) as session:
        set_limits(session, "acme", {"storage_bytes": path.stat().st_size})
    before = kept(home)
    with pytest.raises(TenantLimitError, match="have no room"):
        datasets.add(write(home / "more.jsonl", 3), name="more", tenant="acme")
    assert kept(home) == before
    datasets.add(path, name="again", tenant="acme")
