"""A job's spec and the installation's settings become one request to the trainer program."""

from pathlib import Path

import pytest

from celora.models.spec import parse_spec
from celora.settings.settings import load_settings
from celora.tuning.protocol import PrepareRequest, parse_request
from celora.workers.trainer.requests import SPLIT_SEED, hub_access, request_of

SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl"}


class Folders:
    """The folders of an attempt: below the scratch, and each file that is asked for is noted."""

    def __init__(self, root):
        self.root, self.fetched = root, []

    def holds(self, uri):
        return uri.startswith("s3://ours/")

    def local(self, *names):
        return Path(self.root, *names)

    def fetch_file(self, source, name):
        self.fetched.append(source)
        return Path(self.root, name)


@pytest.fixture
def ask(home):
    def made(op="prepare", settings=None, own_files=False, **fields):  # noqa: FBT002  (the argument's own)
        places = made.places = Folders(home)
        spec = parse_spec(SPEC | fields)
        return request_of(
            spec, places, load_settings(**(settings or {})), job="j", attempt=2, op=op, own_files=own_files
        )

    return made


def test_a_request_is_one_that_the_trainer_program_takes(ask, home):
    request = ask()
    assert isinstance(request, PrepareRequest)
    assert parse_request(request.model_dump_json()) == request
    assert (request.job, request.attempt, request.op, request.base_model) == ("j", 2, "prepare", "tiny")
    assert (request.dataset, request.out_dir) == (f"{home}/dataset-rows.jsonl", f"{home}/prepared")
    assert request.eval_datasets == {}


@pytest.mark.parametrize(
    ("source", "placed"),
    [
        ("/data/rows.jsonl", "{home}/dataset-rows.jsonl"),
        ("/data/rows.csv.gz", "{home}/dataset-rows.csv.gz"),
        ("file:///data/rows.jsonl", "file:///data/rows.jsonl"),
        ("s3://ours/datasets/1/rows.jsonl", "{home}/dataset-rows.jsonl"),
        ("s3://theirs/rows.jsonl", "s3://theirs/rows.jsonl"),
        ("https://example.org/rows.jsonl", "https://example.org/rows.jsonl"),
        ("hub:owner/name", "hub:owner/name"),
    ],
)
def test_only_a_file_of_others_is_left_to_the_trainer_program(ask, home, source, placed):
    request = ask(dataset=source)
    assert request.dataset == placed.format(home=home)
    assert ask.places.fetched == ([] if request.dataset == source else [source])


def test_held_out_sets_keep_their_names_and_get_files_of_their_own(ask, home):
    assert ask(eval_dataset="/data/held.jsonl").eval_datasets == {"eval": f"{home}/eval-0-held.jsonl"}
    request = ask(eval_dataset={"easy": "/a/held.jsonl", "hard": "/b/held.jsonl"})
    assert request.eval_datasets == {"easy": f"{home}/eval-0-held.jsonl", "hard": f"{home}/eval-1-held.jsonl"}


def test_rows_that_must_pass_are_one_more_set(ask, home):
    fields = {"champion": "bot", "gate": {"must_pass": "/data/sure.jsonl"}, "eval_dataset": "/data/held.jsonl"}
    assert ask(**fields).eval_datasets == {
        "eval": f"{home}/eval-0-held.jsonl", "must_pass": f"{home}/must_pass-sure.jsonl",
    }  # fmt: skip


def test_whatever_a_job_s_seed_is_the_same_rows_are_held_out(ask):
    assert {ask(seed=seed).seed for seed in (1, 2)} == {SPLIT_SEED}


def test_a_check_reads_files_with_the_rights_of_the_person_who_runs_it(ask, home):
    settings = {"allowed_roots": ["/data"]}
    assert ask(settings=settings).sources.local_roots[0] == "/data"
    assert ask(op="check", settings=settings).sources.local_roots[0] == "/data", "a server checks as a job reads"
    assert ask(op="check", own_files=True, settings=settings).sources.local_roots is None


def test_the_spec_and_the_settings_reach_the_request(ask):
    fields = {"rank": 4, "duplicates": "keep", "too_long": "drop", "unknown_keys": "ignore", "near_duplicates": 0.9,
              "columns": {"prompt": "q"}, "eval_fraction": 0.2, "eval_max_rows": 7, "revision": "main"}  # fmt: skip
    request = ask(settings={"trainer_threads": 3, "prepare_wall_s": 9, "offline": True}, **fields)
    names = [name for name in fields if name not in ("rank", "near_duplicates")]
    assert {name: getattr(request, name) for name in names} == {name: fields[name] for name in names}
    assert (request.recipe.rank, request.near_duplicates) == (4, 0.9)
    assert (request.threads, request.limits.wall_s, request.hub.offline) == (3, 9, True)


def test_the_receipt_estimates_for_each_type_of_the_catalogue(ask):
    devices = {device.name: device for device in ask().devices}
    assert (devices["cpu"].kind, devices["cpu"].flops_per_s) == ("cpu", 0)
    assert devices["h100"].kind == "cuda"
    assert devices["h100"].flops_per_s == pytest.approx(989e12)
    assert devices["h100"].bandwidth_bytes_per_s == pytest.approx(3.35e12)
    assert "z1" in {
        device.name for device in ask(settings={"gpus": {"z1": {"match": ["z1"], "memory_gib": 9}}}).devices
    }


def test_the_hub_is_reached_as_the_installation_allows(home):
    made = hub_access(load_settings(allowed_bases=["a/*"], remote_code_bases=["a/b"], hub_endpoint="https://mirror"))
    assert made.model_dump() == {
        "endpoint": "https://mirror", "offline": False, "allowed_bases": ["a/*"], "remote_code_bases": ["a/b"],
        "local_roots": ["/"],
    }  # fmt: skip
