"""Normalises a text for comparisons: without Unicode form, case and white space, which seldom matter.

Unusual: Python sorts a run of combining marks in quadratic time, so that one word of a megabyte would take hours. A
long text is therefore composed word by word, and a long word in pieces.
"""

import re
import unicodedata

LONG_TEXT = 4096
_PIECES = re.compile(r"\S{1,256}|\s+")


def normalised(text: str) -> str:
    """Return a text in NFKC, folded, with one space for each run of white space.

    Example:
        ``"  Hi   there "`` becomes ``"hi there"``.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(_composed(text).casefold().split())


def _composed(text: str) -> str:
    if len(text) <= LONG_TEXT:
        return unicodedata.normalize("NFKC", text)
    return "".join(unicodedata.normalize("NFKC", piece) for piece in _PIECES.findall(text))
