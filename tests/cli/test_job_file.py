"""Job files: what YAML takes for something else is refused by its line and text."""

from pathlib import Path

import pytest

from celora.cli.job_file import read_job_file
from celora.errors import SettingsError
from celora.models.spec import parse_spec


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tenant: 007", 'line 2, tenant: 007 is a number: write "007"'),
        ("suffix: 1.10", 'line 2, suffix: 1.10 is a number: write "1.10"'),
        ("user: no", 'line 2, user: no is a switch: write "no"'),
        ("dataset: 2026-11-30", 'line 2, dataset: 2026-11-30 is a date: write "2026-11-30"'),
        ("metadata: {run: 12}", 'line 2, metadata.run: 12 is a number: write "12"'),
        ("rank: 010", "line 2, rank: 010 is the number 8 in YAML"),
        ("time_limit_minutes: 1:30", "line 2, time_limit_minutes: 1:30 is the number 90 in YAML"),
        ("base_model: other", "base_model stands twice, in lines 1 and 2"),
    ],
)
def test_a_value_that_yaml_takes_for_something_else_is_shown(tmp_path, line, told):
    path = tmp_path / "job.yaml"
    path.write_text(f"base_model: smollm2-135m-instruct\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        read_job_file(path)
    assert told in caught.value.message


def test_values_of_a_job_file_are_taken_as_they_are_meant(tmp_path):
    lines = ["learning_rate: 2e-4", "packing: off", 'rank: "8"', 'tenant: "007"', "user: ~", "epochs: 0.5"]
    path = tmp_path / "job.yaml"
    path.write_text("\n".join(["base_model: base", "dataset: rows.jsonl", *lines]))
    spec = parse_spec(read_job_file(path))
    assert (spec.learning_rate, spec.packing, spec.rank, spec.tenant, spec.user) == (2e-4, False, 8, "007", "")


def test_an_endless_job_file_is_refused_with_the_limit():
    with pytest.raises(SettingsError, match="more than 1,000,000 characters"):
        read_job_file(Path("/dev/zero"))
