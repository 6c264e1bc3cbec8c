"""The documentation's site: it builds strictly, loads nothing from the net, and leaves no page out."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hooks import PAGES

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def build(folder, config=ROOT / "mkdocs.yml"):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", folder]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built_and_those_outside_docs_too(site):
    sources = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    outside = [Path(page) for page in PAGES.values()]
    expected = {path.with_suffix(".html").as_posix() for path in [*sources, *outside]}
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert expected <= built
    assert not list(site.rglob("*.py"))


def test_nothing_is_loaded_from_the_net(site):
    loads = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
    found = {(path.name, url) for path in site.rglob("*.html") for url in loads.findall(path.read_text())}
    styles = {(path.name, url) for path in site.rglob("*.css")
              for url in re.findall(r"url\([\"']?((?:https?:)?//[^)]+)", path.read_text())}  # fmt: skip
    assert found | styles == set()


def test_marks_of_runnable_blocks_are_not_shown_and_links_to_the_tree_are_named(site):
    page = (site / "champions.html").read_text()
    assert "runnable" not in page
    assert page.count("<pre>") == 13
    assert "```" not in page
    assert "benchmarks/results/champions.txt" in page
    assert "../benchmarks" not in page
    assert 'href="deploy.html#backup"' in (site / "operations.html").read_text()


@pytest.mark.parametrize("fault", ["[gone](nowhere.md)", "[gone](../nowhere.md)", "[gone](index.md#nowhere)"])
def test_a_link_that_leads_nowhere_stops_the_build(tmp_path, fault):
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(ROOT / "docs" / "hooks.py", docs)
    (docs / "index.md").write_text(f"# Page\n\n{fault}\n")
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[0]
    (tmp_path / "mkdocs.yml").write_text(text)
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
