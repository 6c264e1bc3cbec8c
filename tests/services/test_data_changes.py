"""A schedule's data: a name's newest version, or a file that is read once for each content."""

import os
from pathlib import Path

import pytest
from recurring import HOUR_S, SPEC, jobs, version, versions_of, write

from celora.errors import DataError, LimitError, NotFoundError
from celora.models.tables.schedule import Schedule
from celora.services import data_changes, datasets, schedules
from celora.settings.settings import get_settings
from celora.tuning.semantics import MEANING

pytestmark = pytest.mark.usefixtures("index_here")

on_one_database = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""What is held here is the reading of files; each costs a process, and no database makes a difference."""


@on_one_database
def test_so_many_new_rows_are_counted_since_the_last_run(record, look, end, home):
    datasets.add(write(home / "rows.jsonl", 1, 2), name="rows")
    schedules.add("s", SPEC | {"dataset": "rows"}, when_new_rows=3)
    for rows, expected in (((1, 2, 3, 4), 0), ((9, 8, 7), 1), ((9, 8, 7, 1, 2), 0), ((9, 8, 7, 1, 2, 3), 1)):
        datasets.add(write(home / "rows.jsonl", *rows), name="rows")
        assert look() == expected
        end()
    assert schedules.show("s")["seen"]["reference"] == "rows@5"


@on_one_database
def test_a_file_is_read_again_when_it_changed_and_only_then(record, look, end, home, monkeypatch):
    path = write(home / "grows.jsonl", 1, 2)
    schedules.add("s", SPEC | {"dataset": str(path)}, when_new_rows=2)
    read = []
    real = datasets.add
    monkeypatch.setattr(datasets, "add", lambda *args, **options: read.append(args) or real(*args, **options))
    look()
    os.utime(path)
    look()
    assert len(read) == 1
    write(path, 1, 2, 3, 4)
    assert [look(), look()] == [1, 0]
    assert len(read) == 2
    assert jobs(record)[0].spec["dataset"].startswith(get_settings().artifacts)


@on_one_database
def test_a_file_goes_with_a_clock_too(record, look, pass_time, end, home):
    path = write(home / "grows.jsonl", 1, 2)
    schedules.add("s", SPEC | {"dataset": str(path)}, every="1h")
    for rows in ((1, 2), (1, 2, 3)):
        write(path, *rows)
        pass_time(HOUR_S)
        look()
        end()
    assert [versions_of(record, job.id) for job in jobs(record)] == [[1], [2]]


@on_one_database
def test_a_file_that_grows_while_it_is_read_is_trained_as_it_was(record, look, pass_time, home, monkeypatch):
    path = write(home / "grows.jsonl", 1, 2)
    schedules.add("s", SPEC | {"dataset": str(path)}, every="1h")
    real = datasets.run_once

    def growing(request, *args, **options):
        write(path, 1, 2, 3, 4, 5)
        return real(request, *args, **options)

    monkeypatch.setattr(datasets, "run_once", growing)
    write(path, 1, 2, 3)
    pass_time(HOUR_S)
    assert look() == 1
    uri = jobs(record)[0].spec["dataset"].removeprefix("file://")
    assert Path(uri).read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("/data/rows.jsonl", True),
        ("rows.jsonl.gz", False),  # a name may have dots
        ("./rows.jsonl", True),
        ("faq", False),
        ("faq@3", False),
        ("https://example.org/rows.jsonl", False),
        ("s3://bucket/rows.jsonl", False),
        ("hub:owner/name", False),
        ("{artifacts}/datasets/1/rows.jsonl", False),
        ("{artifacts}-of-others/rows.jsonl", True),
    ],
)
def test_a_file_is_neither_a_name_nor_a_url_nor_an_artifact(home, monkeypatch, source, found):
    monkeypatch.setenv("CELORA_ARTIFACT_ROOT", "/mnt/artifacts")
    get_settings.cache_clear()
    assert data_changes.is_file(source.format(artifacts="/mnt/artifacts"), get_settings()) is found


def test_the_content_of_a_name_is_its_newest_version_or_the_one_that_is_named(record, home):
    def content(source, tenant="default"):
        return data_changes.content(source, tenant=tenant, settings=get_settings(), looked={})

    version(record, "b")
    kept = content("faq").plain()
    assert (kept["reference"], kept["sha256"], kept["semantics"]) == ("faq@2", "b" * 64, MEANING)
    assert content("faq@1").sha256 == "a" * 64
    with pytest.raises(NotFoundError):
        content("faq", tenant="acme")
    assert data_changes.with_version(SPEC, get_settings(), {}) == SPEC, "a name is resolved at its run"


def test_a_file_that_is_too_large_is_refused_before_it_is_read(record, home, monkeypatch):
    path = write(home / "large.jsonl", *range(99))
    small = get_settings().model_copy(update={"prepare_file_bytes": 1000})
    looked = {}
    with pytest.raises(LimitError, match=r"the dataset large\.jsonl is larger than") as refused:
        data_changes.content(str(path), tenant="default", settings=small, looked=looked)
    assert "CELORA_PREPARE_FILE_BYTES" in refused.value.hint
    assert looked == {}


def test_a_file_outside_the_allowed_folders_is_refused(record, home):
    path = write(home / "rows.jsonl", 1)
    strict = get_settings().model_copy(update={"allowed_roots": [home / "data"]})
    with pytest.raises(DataError):
        data_changes.content(str(path), tenant="default", settings=strict, looked={})


def test_new_rows_are_counted_once_for_a_pair_of_contents(record, home, monkeypatch):
    counted, looked = [], {}
    monkeypatch.setattr(datasets, "count_new", lambda *pair, tenant: counted.append((*pair, tenant)) or len(counted))
    first, second = data_changes.Content("faq@2", "b"), data_changes.Content("faq@3", "c")
    since = {"reference": "faq@1", "sha256": "a"}
    found = [data_changes.new_rows(each, since, tenant="acme", looked=looked) for each in (first, first, second)]
    assert found == [1, 1, 2]
    assert counted == [("faq@2", "faq@1", "acme"), ("faq@3", "faq@1", "acme")]


def test_only_a_file_is_claimed_and_one_at_a_time(record, home):
    settings = get_settings()
    named, filed = Schedule(id="a", spec=SPEC), Schedule(id="b", spec={"dataset": "/rows.jsonl"})
    with data_changes.claimed_file(filed, settings) as first, data_changes.claimed_file(filed, settings) as second:
        assert (first, second) == (True, False)
    with data_changes.claimed_file(filed, settings) as again:
        assert again
    with data_changes.claimed_file(named, settings) as one, data_changes.claimed_file(named, settings) as other:
        assert (one, other) == (True, True)
