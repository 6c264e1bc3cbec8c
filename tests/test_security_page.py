"""SECURITY.md: each line of an actor names tests, and every test that it names exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
ACTORS = {"Somebody on the network", "An application with the broker's password", "A submitter",
          "The author of a dataset or a base", "A local user of the machine", "An operator",
          "Somebody who reaches the HTTP API"}  # fmt: skip


def functions_of(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)}  # fmt: skip


def test_every_actor_has_its_lines_and_every_line_a_test():
    chapter = PAGE[PAGE.index("## Who is protected from whom") : PAGE.index("## Secrets")]
    parts = re.split(r"^### (.+)$", chapter, flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    assert set(found) == ACTORS
    for actor, text in found.items():
        lines = [line for line in text.splitlines() if line.startswith("| ") and "held by" not in line]
        assert lines, actor
        assert [line for line in lines if not NAMED.search(line)] == [], actor


def test_every_test_that_is_named_exists():
    named = NAMED.findall(PAGE)
    missing = [f"{file}::{test}" for file, test in named
               if not (ROOT / "tests" / file).is_file() or test not in functions_of(ROOT / "tests" / file)]  # fmt: skip
    assert missing == []
    assert len(named) > 30
