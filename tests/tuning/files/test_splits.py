import pytest

from celora.errors import DataError
from celora.tuning.files.hub_datasets import HubDataset
from celora.tuning.files.splits import Part, choose_files


def part(asked=""):
    """The part of a hub dataset that a query asks for."""
    dataset = HubDataset.parse(f"hub:o/n{asked}")
    return Part("hub:o/n", dataset.config, (dataset.split,))


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        (["train.jsonl", "test.jsonl"], "", ["train.jsonl"]),
        (["train.jsonl", "test.jsonl"], "?split=test", ["test.jsonl"]),
        (["data/dev-0.parquet", "data/training-0.parquet"], "?split=validation", ["data/dev-0.parquet"]),
        (["alpaca.json", "README.md", ".hidden.json"], "", ["alpaca.json"]),
        (["en/train.csv", "de/train.csv"], "?config=de", ["de/train.csv"]),
        (["b.csv", "a.csv"], "", ["a.csv", "b.csv"]),
    ],
)
def test_without_a_card_the_names_say_what_belongs_together(names, asked, chosen):
    assert choose_files(part(asked), names, "") == chosen


@pytest.mark.parametrize(
    "card", ["", "---\n: {\n---\n", "---\nconfigs: all\n---\n", "---\nlicense: mit\n---\n", "# no head"]
)
def test_a_card_that_tells_nothing_leaves_it_to_the_names(card):
    assert choose_files(part(""), ["train.csv"], card) == ["train.csv"]


@pytest.mark.parametrize(
    "path",
    ["/etc/*", "../*", "data/../../*", "https://example.org/x.csv", "zip://x.csv::train.csv", "file:///etc/passwd"],
)
def test_a_pattern_of_a_card_leads_to_no_other_place(path):
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '{path}'\n---\n"
    with pytest.raises(DataError, match="has no split 'train'; it has none"):
        choose_files(part(""), ["train.csv"], card)


def test_a_card_with_several_configurations_and_no_default_asks_for_one():
    entries = "".join(f"- config_name: {name}\n  data_files: {name}/*.csv\n" for name in ("de", "en"))
    card, names = f"---\nconfigs:\n{entries}---\n", ["de/a.csv", "en/a.csv", "en/b.csv"]
    assert choose_files(part("?config=en"), names, card) == ["en/a.csv", "en/b.csv"]
    with pytest.raises(DataError, match="has the configurations de, en") as caught:
        choose_files(part(""), names, card)
    assert "?config=" in caught.value.hint


def test_of_several_splits_the_first_that_exists_is_read():
    names = ["train.jsonl", "validation.jsonl"]
    assert choose_files(Part("ds", None, ("test", "validation", "train")), names, "") == ["validation.jsonl"]
    assert choose_files(Part("ds", None, ("test", "train")), ["train.jsonl"], "") == ["train.jsonl"]
    with pytest.raises(DataError, match=r"ds has no split 'train'; it has test\."):
        choose_files(Part("ds", None, ("train",)), ["test.jsonl"], "")
