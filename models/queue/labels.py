"""Writes the labels that a job asks for, or that a worker carries, as the one text that the record keeps."""

import re
from collections.abc import Iterable

from ...errors import SettingsError

LABEL = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
MOST_LABELS = 8
LONGEST_TEXT = 255
"""The width of the columns."""
LONGEST_SHOWN = 40


def label_text(names: Iterable[str]) -> str:
    """Return labels sorted and joined by commas, each once.

    Raises:
        SettingsError: One has a form that no label has, or there are too many.
    """
    found = sorted({name.strip() for name in names} - {""})
    for name in found:
        if not LABEL.fullmatch(name):
            raise SettingsError(
                f"labels: {name[:LONGEST_SHOWN]!r} can't be a label.",
                hint="Use 1 to 32 small letters, digits, '.', '_' and '-', a letter or digit first.",
            )
    text = ",".join(found)
    if len(found) > MOST_LABELS or len(text) > LONGEST_TEXT:
        raise SettingsError(
            f"labels: {len(found)} labels of {len(text)} characters are too many.",
            hint=f"Use at most {MOST_LABELS}, of {LONGEST_TEXT} characters together.",
        )
    return text
