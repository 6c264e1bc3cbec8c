"""What MkDocs does beside building: one source for the tree and for the site.

Pages link to files of the repository as a reader of the tree needs them (``../deploy/README.md``). On the site a link
to a file that is a page goes to that page, and any other file of the tree is named, not linked. ``PAGES`` are the
documents outside docs/ that are pages as well. A link that leads nowhere stays as it is, so that a strict build fails.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"deploy/README.md": "deploy.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security-policy.md"}
LINK = re.compile(r"\[(?P<words>[^\]\n]+)\]\((?!https?:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
MARK = re.compile(r"^(```[a-z]+) runnable$", flags=re.MULTILINE)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the documents that lie outside docs/."""
    for source, page in PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Take the word ``runnable`` out of the fences, and make links out of docs/ fit the site."""
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
