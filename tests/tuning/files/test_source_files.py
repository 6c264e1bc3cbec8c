import json

import pytest

from celora.errors import DataError
from celora.tuning.files.source_files import fetching, one_file
from celora.tuning.protocol import PrepareRequest, SourceAccess
from celora.tuning.recipe import Recipe
from celora.tuning.rows.row_reader import read


def line(n):
    return json.dumps({"prompt": f"{n}?", "completion": str(n)}) + "\n"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "allowed" / "ds"
    root.mkdir(parents=True)
    for name, numbers in {
        "train-0.jsonl": "12",
        "train-1.jsonl": "3",
        "test-0.jsonl": "45",
        "test-1.jsonl": "6",
    }.items():
        (root / name).write_text("".join(map(line, numbers)))
    return root


@pytest.fixture
def seen(tmp_path):
    """Gives the rows and the name of each set's file, as work sees them behind ``fetching``."""

    def work(request, _emit):
        files = {"train": request.dataset, **request.eval_datasets}
        found = {name: read(tmp_path / path) for name, path in files.items()}
        return {
            name: (data.path.name, "".join(row.messages[1]["content"] for row in data.rows))
            for name, data in found.items()
        }

    def seen(dataset, *, roots=None, names=None, **held_out):
        request = PrepareRequest(
            job="job", attempt=1, cache_dir=str(tmp_path), base_model="x", recipe=Recipe(), seed=0,
            dataset=str(dataset), eval_datasets={name: str(path) for name, path in held_out.items()},
            out_dir=str(tmp_path / "out"), file_names=names or {}, sources=SourceAccess(local_roots=roots),
        )  # fmt: skip
        try:
            return fetching(work)(request, lambda *_, **__: None)
        finally:
            assert not (tmp_path / "out.sources").exists()

    return seen


@pytest.mark.parametrize("judged", [False, True])
def test_a_folder_and_a_pattern_are_read_as_their_files(seen, folder, judged):
    roots = [str(folder.parent)] if judged else None
    found = seen(folder, roots=roots, eval=folder, own=f"{folder}/test-0.*", both=f"{folder}/t*-1.jsonl")
    assert found == {
        "train": ("ds", "123"), "eval": ("ds", "456"), "own": ("test-0.jsonl", "45"), "both": ("t-1", "63"),
    }  # fmt: skip


def test_a_folder_outside_the_allowed_ones_is_not_listed(seen, folder, tmp_path):
    for source in (folder, f"{folder}/*.jsonl"):
        with pytest.raises(DataError, match="outside the allowed folders"):
            seen(source, roots=[str(tmp_path / "other")])


def test_a_link_in_a_folder_that_leads_out_of_the_allowed_ones_is_refused(seen, folder, tmp_path):
    (tmp_path / "secret.jsonl").write_text(line(9))
    (folder / "train-2.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(DataError, match="outside the allowed folders"):
        seen(folder, roots=[str(folder.parent)])


@pytest.mark.parametrize("judged", [False, True])
def test_a_file_has_the_name_that_its_user_knows(seen, folder, judged):
    roots = [str(folder.parent)] if judged else None
    file = folder / "train-0.jsonl"
    assert seen(file, roots=roots, names={"train": "faq.jsonl"}) == {"train": ("faq.jsonl", "12")}
    assert seen(file, roots=roots, eval=file, names={"eval": "held.jsonl"}) == {
        "train": ("train-0.jsonl", "12"),
        "eval": ("held.jsonl", "12"),
    }


def test_a_source_becomes_one_file_for_an_import(folder, tmp_path):
    def found(source, **options):
        with one_file(str(source), tmp_path / "scratch", **options) as path:
            return path.name, "".join(row.messages[1]["content"] for row in read(path).rows)

    assert found(folder) == ("ds.jsonl", "123")
    assert found(folder, held_out=True) == ("ds.jsonl", "456")
    assert found(f"{folder}/test-*.jsonl") == ("test.jsonl", "456")
    assert found(f"{folder}/test-0*") == found(folder / "test-0.jsonl") == ("test-0.jsonl", "45")
    assert not list((tmp_path / "scratch").iterdir())
