"""The files of a command's job are sent once each, and their ids stand in the place of their paths."""

from celora.api.client.uploads import SentFile
from celora.cli.remote_files import with_ids


def test_ids_stand_in_the_place_of_paths_and_ids_stay():
    sent = {"a.jsonl": SentFile("file-1"), "b.jsonl": SentFile("file-2", passing=True)}
    fields = {"dataset": "a.jsonl", "eval_dataset": "file-9", "gate": {"must_pass": "b.jsonl", "min_gain": 0.1}}
    assert with_ids(fields, sent) == {
        "dataset": "file-1", "eval_dataset": "file-9", "gate": {"must_pass": "file-2", "min_gain": 0.1},
    }  # fmt: skip
    assert with_ids({"dataset": "a.jsonl", "rank": 4}, sent) == {"dataset": "file-1", "rank": 4}
