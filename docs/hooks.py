"""Adapts the pages for MkDocs, so that the tree and the site have one source.

Pages link to files of the repository as a reader of the tree needs them (``../deploy/README.md``). On the site such a
link goes to the page of the file, or becomes the plain name of a file that is no page. ``PAGES`` lists the documents
outside docs/ that are pages as well. A broken link stays unchanged, so that a strict build fails.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "deploy/README.md": "deploy.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
}
LINK = re.compile(r"\[(?P<words>[^\]\n]+)\]\((?!https?:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
MARK = re.compile(r"^(```[a-z]+) runnable$", flags=re.MULTILINE)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the documents outside docs/."""
    for source, page in PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Remove the word ``runnable`` from the fences, and adapt links that lead out of docs/."""
    uri = page.file.src_uri
    source = next((source for source, name in PAGES.items() if name == uri), f"docs/{uri}")

    def fitted(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), found["path"]))
        target = PAGES.get(path) or path.removeprefix("docs/")
        if files.get_file_from_path(target):
            where = posixpath.relpath(target, posixpath.dirname(uri) or ".")
            return f"[{found['words']}]({where}{found['anchor'] or ''})"
        if (ROOT / path).exists():
            return found["words"] if path in found["words"] else f"{found['words']} (`{path}`)"
        return found[0]

    return LINK.sub(fitted, MARK.sub(r"\1", markdown))
