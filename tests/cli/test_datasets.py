"""``celora datasets``, and jobs that name a version."""

import json

import pytest

from celora.cli.datasets import name_of
from celora.settings.settings import get_settings

pytestmark = pytest.mark.usefixtures("index_here")

BASE = ("submit", "--base-model", "smollm2-135m-instruct", "--json")


def write(path, *numbers):
    path.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) + "\n" for n in numbers))
    return path


@pytest.fixture
def added(celora, tmp_path):
    """Adds rows under the name faq; the version's number."""

    def add(*numbers, name="faq"):
        result = celora("datasets", "add", write(tmp_path / "faq.jsonl", *numbers), "--name", name, "--json")
        assert result.exit_code == 0, result.stderr
        return result.json()["version"]

    return add


def seen(celora, *words):
    submitted = celora(*BASE, *words)
    assert submitted.exit_code == 0, submitted.stderr
    return celora("status", submitted.json()["id"], "--json").json()


def test_the_same_file_twice_is_one_version(celora, added):
    assert [added(1, 2), added(1, 2, 3), added(1, 2)] == [1, 2, 1]
    listed = celora("datasets", "--json").json()
    assert [(row["name"], row["version"], row["rows"]) for row in listed] == [("faq", 2, 3)]
    shown = celora("datasets", "show", "faq", "--json").json()
    assert [row["rows"] for row in shown["versions"]] == [3, 2]
    assert "faq" in celora("datasets", "list").stdout
    assert "2 versions" in celora("datasets", "show", "faq").stdout


def test_new_rows_since_a_version_are_printed_as_rows(celora, added):
    added(1, 2)
    added(4, 2, 3, 1)
    printed = celora("datasets", "rows", "faq", "--since", "1").stdout.splitlines()
    assert [json.loads(line)["prompt"] for line in printed] == ["q4", "q3"]
    assert celora("datasets", "rows", "faq", "--since", "1", "--count").stdout.strip() == "2"
    assert celora("datasets", "rows", "faq@1", "--count").stdout.strip() == "2"


def test_a_job_names_a_version_and_says_which_it_saw(celora, added, tmp_path):
    added(1, 2)
    added(1, 2, 3)
    newest, first = seen(celora, "--dataset", "faq"), seen(celora, "--dataset", "faq@1", "--eval-dataset", "faq@2")
    assert (newest["datasets"]["train"]["name"], newest["datasets"]["train"]["version"]) == ("faq", 2)
    assert {role: row["version"] for role, row in first["datasets"].items()} == {"train": 1, "eval": 2}
    assert "dataset    faq@1" in celora("status", first["id"]).stdout
    assert first["id"] in celora("datasets", "show", "faq@1").stdout


def test_a_file_that_is_submitted_is_a_version_of_its_own_name_or_of_the_name_it_has(celora, added, tmp_path):
    path = write(tmp_path / "my rows.v2.jsonl", 7, 8)
    assert seen(celora, "--dataset", path)["datasets"]["train"]["name"] == "my-rows.v2"
    added(5, 6)
    known = write(tmp_path / "other.jsonl", 5, 6)
    assert seen(celora, "--dataset", known)["datasets"]["train"]["name"] == "faq"
    assert celora("datasets", "rows", "my-rows.v2", "--since", "1", "--count").stdout.strip() == "0"


def test_what_is_not_there_is_told(celora, added):
    added(1)
    for words, says in (
        (("rows", "fag"), "did you mean faq"),
        (("rows", "faq", "--since", "4"), "no version 4"),
        (("show", "faq@9"), "no version 9"),
        (("add", "missing.jsonl"), "no file here"),
        (("add", "missing.jsonl", "--name", "a b"), "cannot be a dataset's name"),
    ):
        result = celora("datasets", *words)
        assert result.exit_code != 0
        assert says in result.stderr
    refused = celora(*BASE, "--dataset", "fag")
    assert "did you mean faq" in refused.stderr


def test_a_bad_file_is_refused_and_nothing_is_left(celora, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n{"prompt"\n')
    result = celora("datasets", "add", path)
    assert result.exit_code == 65
    assert "bad.jsonl has 1 bad line of 2: line 2: invalid JSON" in result.stderr
    folder = get_settings().home / "artifacts" / "datasets"
    assert not folder.exists() or list(folder.iterdir()) == []
    assert celora("datasets", "--json").json() == []


def test_a_file_lends_its_name(tmp_path):
    names = {"train.jsonl": "train", "rows.v2.csv.gz": "rows.v2", "été 1.json": "t--1", ".jsonl": "jsonl"}
    names |= {"—.csv": "dataset", "(final).jsonl": "final"}
    assert {name: name_of(tmp_path / name) for name in names} == names
