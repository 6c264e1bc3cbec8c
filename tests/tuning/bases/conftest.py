"""Texts and vocabularies for small ``.gguf`` files, so that every rule of cutting words shows."""

import random
from pathlib import Path

import pytest
from gguf_files import greedy_vocabulary, write_gguf, write_sentencepiece

PLAIN, MANY = (line.split() for line in (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").splitlines())
"""Words whose letters are ASCII or have no case, and words of many scripts."""
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n"]
WIDE_SPACES = ["\u00a0", "\u3000", "\u2028"]
CASES = ["e\u0301t\u0301", "\u01c5", "\u0130x"]
"""Combining marks and title case: what "upper" and "lower" mean in the rules of GPT-4o and Tekken."""


def sentences(words, count=200, seed=0):
    """Texts of a few words each, joined by nothing, a space or a line break."""
    chosen = random.Random(seed)  # noqa: S311  (test data)
    return [
        chosen.choice(["", " ", " ", " ", "\n"]).join(chosen.choice(words) for _ in range(chosen.randint(3, 14)))
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def vocabulary():
    return greedy_vocabulary(sentences([*PLAIN, *MANY, *SPACES, *WIDE_SPACES, *CASES]))


@pytest.fixture(scope="session")
def texts():
    """200 texts each: of plain words, of words in many scripts, and with all kinds of white space and marks."""
    return {
        "plain": sentences([*PLAIN, *SPACES]),
        "many": sentences([*PLAIN, *MANY, *SPACES]),
        "wide": sentences([*PLAIN, *MANY, *SPACES, *WIDE_SPACES, *CASES]),
    }


@pytest.fixture(scope="session")
def sentencepiece_writer():
    return write_sentencepiece


@pytest.fixture(scope="session")
def gguf_writer():
    return write_gguf
