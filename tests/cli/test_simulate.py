"""`celora simulate`: figures for people and for programs."""

import json

import yaml

SCENARIO = {
    "cluster": [{"type": "h100", "count": 2}],
    "jobs": [{"tenant": "vision", "count": 6, "minutes": 10}, {"tenant": "speech", "minutes": 5}],
}


def test_a_scenario_is_replayed_and_compared_and_drawn(tmp_path, celora):
    path, drawn = tmp_path / "s.yaml", tmp_path / "s.svg"
    path.write_text(yaml.safe_dump(SCENARIO))
    done = celora("simulate", path, "--compare", "fifo,priority", "--svg", drawn, "--json")
    assert done.exit_code == 0, done.output
    assert [each["policy"] for each in json.loads(done.stdout)] == ["fair", "fifo", "priority"]
    assert drawn.read_text().startswith("<svg")
    told = celora("simulate", path).stdout
    assert "vision" in told
    assert "longest wait" in told


def test_what_cannot_be_tried_is_refused(tmp_path, celora):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(SCENARIO))
    for words in ([], [path, "--compare", "lottery"], [path, "--weight", "vision=0"], [path, "--weight", "vision"]):
        assert celora("simulate", *words).exit_code != 0
    assert celora("simulate", path, "--half-life-hours", "0").exit_code != 0
