"""Runs the commands of a page: every block whose fence says ``runnable``, in order, unchanged.

    python docs/pages.py docs/howto/command-line.md       # in the installation that CELORA_HOME names

The word is the second of the fence: ``sh runnable``, ``python runnable``. Each shell block runs in a new bash, which
stops at the first failure, each Python block in a new process of this interpreter. Tests and benchmarks that follow a
page use this module, too; the site leaves the word out (``docs/hooks.py``).
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = " runnable"
FENCE = re.compile(r"^```(?P<language>[a-z]+)" + MARK + r"\n(?P<text>.*?)^```", flags=re.MULTILINE | re.DOTALL)
LIMIT_S = 3600


@dataclass(frozen=True)
class Block:
    """A runnable block.

    Attributes:
        language: ``sh`` or ``python``.
        text: The lines between the fences.
    """

    language: str
    text: str

    @property
    def name(self) -> str:
        """The text of a comment in the first line; empty without one."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("# ").strip() if first.startswith("# ") else ""

    @property
    def command(self) -> list[str]:
        """The command that runs the block."""
        if self.language == "python":
            return [sys.executable, "-c", self.text]
        return ["bash", "-euo", "pipefail", "-c", self.text]


def blocks(page: str) -> list[Block]:
    """The runnable blocks of a page, in order."""
    return [Block(found["language"], found["text"]) for found in FENCE.finditer(page)]


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of the blocks: this home, and the programs of this interpreter first in the path."""
    programs = str(Path(sys.executable).parent)
    return {**os.environ, "CELORA_HOME": str(home), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **more}


def run(page: str, home: Path, *, folder: Path, limit_s: float = LIMIT_S, **more: str) -> Iterator[tuple[str, str]]:
    """Run the blocks of a page one after the other, and yield each with its output.

    Args:
        page: The page's text.
        home: The ``CELORA_HOME`` of the installation.
        folder: The working folder of the commands.
        limit_s: Seconds that one block may take.
        more: Further environment variables.

    Raises:
        SystemExit: A block failed; its output is in the message.
    """
    for block in blocks(page):
        done = subprocess.run(
            block.command,
            cwd=folder,
            env=environment(home, **more),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"$ {block.text}\n{done.stdout}\n{done.stderr}\nended with {done.returncode}")
        yield block.text, done.stdout


def main() -> None:
    """Run the pages named on the command line in the current folder."""
    home = Path(os.environ.get("CELORA_HOME") or Path.home() / ".celora").expanduser()
    for name in sys.argv[1:]:
        for command, printed in run(Path(name).read_text(encoding="utf-8"), home, folder=Path.cwd()):
            print(f"$ {command.strip()}\n{printed.strip()}\n", flush=True)


if __name__ == "__main__":
    main()
