"""Datasets by name and version, and which version a job saw."""

import pytest

from celora.errors import NotFoundError, SettingsError
from celora.models import datasets, queries
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec

SPEC = {"base_model": "tiny", "dataset": "faq", "tenant": "acme"}


@pytest.fixture
def add(database):
    def add(digit, name="faq", tenant="acme"):
        facts = {"sha256": digit * 64, "uri": f"file:///datasets/{digit}", "size_bytes": 1, "rows": 2}
        with database.transaction(Scope.everything) as session:
            return datasets.register(session, tenant=tenant, name=name, **facts)

    return add


@pytest.fixture
def call(database):
    """A function of ``datasets`` in a transaction of its own."""

    def call(verb, *args, **options):
        with database.transaction(Scope.everything) as session:
            return getattr(datasets, verb)(session, *args, **options)

    return call


def test_a_reference_is_a_name_and_perhaps_a_version():
    parse = datasets.Reference.parse
    assert parse("faq") == datasets.Reference("faq", None)
    assert parse("support-faq.2@12") == datasets.Reference("support-faq.2", 12)
    wrong = ("/data/x.jsonl", "a/b", "https://x", "faq@0", "faq@x", "faq@", "@3", "", "-x", "a b", "x" * 65, "é")
    assert [words for words in wrong if parse(words)] == []


def test_a_name_means_its_newest_version(add, call):
    for digit in "aba":
        add(digit)
    assert call("find", "acme", "faq").version == 2
    assert call("find", "acme", "faq@1").sha256 == "a" * 64


def test_what_is_not_there_is_told_with_what_is(add, call):
    add("a")
    with pytest.raises(NotFoundError, match="no version 7; its newest is 1"):
        call("find", "acme", "faq@7")
    with pytest.raises(NotFoundError, match="did you mean faq"):
        call("find", "acme", "fag")
    with pytest.raises(NotFoundError, match="there is no dataset faq"):
        call("find", "other", "faq")


def test_names_that_cannot_be_are_refused():
    assert datasets.check_name("support-faq_2.1") == "support-faq_2.1"
    for name in ("", "a b", "../x", "faq@3", "x" * 65):
        with pytest.raises(SettingsError, match="cannot be a dataset's name"):
            datasets.check_name(name)


def test_a_spec_gets_the_places_of_the_versions_it_names(add, call):
    add("a")
    add("b")
    add("c", name="held")
    spec = parse_spec(SPEC | {"eval_dataset": {"one": "held@1", "two": "/data/x.jsonl"}})
    placed, versions = call("resolve", spec)
    assert placed.dataset == "file:///datasets/b"
    assert placed.eval_dataset == {"one": "file:///datasets/c", "two": "/data/x.jsonl"}
    told = {role: (seen.name, seen.version) for role, seen in versions.items()}
    assert told == {"train": ("faq", 2), "one": ("held", 1)}


def test_a_place_is_known_by_its_version_too(add, call):
    add("a")
    placed, versions = call("resolve", parse_spec(SPEC | {"dataset": "file:///datasets/a"}))
    assert (placed.dataset, versions["train"].version) == ("file:///datasets/a", 1)
    assert call("of_content", "acme", "a" * 64).name == "faq"
    assert call("of_content", "other", "a" * 64) is None


def test_a_job_says_which_version_it_saw(add, call, database):
    first, second = add("a"), add("b")
    for job_id, seen in (("one", first), ("two", second)):
        with database.transaction(Scope.everything) as session:
            accept.submit(session, job_id=job_id, spec=parse_spec(SPEC))
            datasets.record_use(session, job_id, {"train": seen, "eval": first})
            datasets.record_use(session, job_id, {"train": first})  # what was written first stays
    with database.session(Scope.everything) as session:
        told = queries.job_detail(session, "two").datasets
    assert list(told) == ["train", "eval"]
    assert told["train"] == {"name": "faq", "version": 2, "sha256": "b" * 64}
    assert [(job["id"], job["role"]) for job in call("jobs_using", second)] == [("two", "train")]
    versions = call("listed", tenant="acme", name="faq")
    assert [(row["version"], row["jobs"]) for row in versions] == [(2, 1), (1, 3)]


def test_the_same_content_under_a_name_is_one_version(add):
    assert [add(digit).version for digit in "abac"] == [1, 2, 1, 3]
    assert add("b", name="other").version == 1


@pytest.mark.parametrize("called", ["Größe 训练.jsonl", "train (2).csv.gz", "r\udce9sum\udce9.json"])
def test_a_version_is_called_by_its_files_name_as_its_user_wrote_it_last(database, call, called):
    facts = {"sha256": "a" * 64, "uri": "file:///datasets/a/data.jsonl", "size_bytes": 1}
    for given in (None, "first.jsonl", called, None):
        made = call("register", tenant="acme", name="data", **facts, file_name=given)
        assert (made.version, datasets.file_name(made).startswith("data")) == (1, given is None and not made.file_name)
    assert datasets.file_name(made) == called.replace("\udce9", "?")


def test_a_job_s_files_are_named_after_their_datasets(database, call):
    for name, uri in {"faq": "file:///datasets/a/data.csv.gz", "held-out": "file:///datasets/b/data"}.items():
        facts = {"sha256": uri[18] * 64, "uri": uri, "size_bytes": 1}
        call("register", tenant="acme", name=name, **facts)
    spec, versions = call("resolve", parse_spec({**SPEC, "eval_dataset": {"hard": "held-out"}}))
    with database.transaction(Scope.everything) as session:
        accept.submit(session, job_id="job", spec=spec, request=None)
        datasets.record_use(session, "job", versions)
    assert call("file_names", "job") == {"train": "faq.csv.gz", "hard": "held-out.jsonl"}
    assert call("file_names", "other") == {}
