"""docs/champions.md, every command of it, on a tiny base; the same story on the real one is benchmarks/champions.py."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from pages import run

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def story():
    """The script that runs the page."""
    spec = importlib.util.spec_from_file_location("story", ROOT / "benchmarks" / "champions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listener(folder):
    """A command for ``on_promote`` that keeps what it is told."""
    program = folder / "listen.py"
    program.write_text(
        "import json, os, sys\n"
        "facts = json.load(sys.stdin)\n"
        f"with open({str(folder / 'told.jsonl')!r}, 'a') as file:\n"
        "    print(json.dumps([facts, os.environ['CELORA_CHAMPION_JOB']]), file=file)\n"
    )
    return [sys.executable, str(program)]


def test_every_command_of_the_page_runs_and_every_claim_of_it_holds(started, base, story, tmp_path):
    running = started({"CELORA_ON_PROMOTE": json.dumps(listener(tmp_path))})
    home = running.settings.home
    page = (ROOT / "docs" / "champions.md").read_text(encoding="utf-8")
    sure = tmp_path / "sure.jsonl"
    sure.write_text('{"prompt": "the one answer?", "completion": "words that no tiny model says"}\n')
    for words, ours in (
        ("smollm2-135m-instruct", str(base)),
        ("metric=exact_match", "metric=eval_loss"),
        ("--eval-max-new-tokens 24", "--eval-max-new-tokens 4"),
        ("--id worse", f"--gate must_pass={sure} --id worse"),
    ):
        assert words in page
        page = page.replace(words, ours)
    printed = dict(run(page, home, folder=ROOT))
    said = {name: text for command, text in printed.items() for name in COMMANDS if COMMANDS[name] in command}

    assert story.claims(home) == dict.fromkeys(story.claims(home), True)
    assert "promoted, against the base: eval loss \N{MINUS SIGN}" in said["first"]
    assert "kept out, against first: eval loss +" in said["worse"]
    assert "no gain; eval loss +" in said["worse"]
    assert "1 of 1 must-pass rows failed, first “the one answer?”: wanted “words that no tiny model" in said["worse"]
    worse = running.job("worse")
    assert worse["status"] == "completed"
    assert worse["summary"]["champion"]["figures"]["must_pass"] == {"rows": 1, "failed": 1, "unasked": 0}
    assert worse["datasets"]["must_pass"]["name"] == "sure"
    assert "promoted, against first: eval loss \N{MINUS SIGN}" in said["better"]
    assert "better" in said["compare"]
    assert json.loads(said["alias"])["job"] == "better"
    assert said["python"].startswith("better 2 ")
    assert "rolled back" in said["history"]

    alias = json.loads((home / "artifacts" / "champions" / "default" / "support-bot.json").read_text())
    assert (alias["job"], alias["version"]) == ("first", 3)
    card = (Path(alias["adapter"].removeprefix("file://")) / "README.md").read_text()
    assert "champion: passes the gate of support-bot, against the base" in card
    running.wait("first", lambda _: len((tmp_path / "told.jsonl").read_text().splitlines()) == 3)
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [(facts["kind"], facts["version"], job) for facts, job in told] == [
        ("promoted", 1, "first"), ("promoted", 2, "better"), ("rolled_back", 3, "first"),
    ]  # fmt: skip

    together = json.loads(running.run("celora", "compare", "worse", "better", "--run", "--json"))
    loss = together["sets"]["eval"]["measures"]["eval_loss"]
    assert together["together"]
    assert loss["better"] == "other"
    assert loss["other"] == pytest.approx(running.job("better")["metrics"]["tuned"]["eval_loss"], rel=1e-5)
    assert set(together["sets"]) == {"eval", "must_pass"}


COMMANDS = {
    "first": "--id first",
    "worse": "--id worse",
    "better": "--id better",
    "compare": "celora compare",
    "alias": "cat ",
    "python": "from celora.services import champions",
    "history": "celora champion history",
}
