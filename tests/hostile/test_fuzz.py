"""Costly rows, and good files of every container and format, mutated: each is read or refused with its place, in time.

``make attack ARGS="data --seeds 1 2 3"`` reads more of them.
"""

from hostile.attack import hold
from hostile.kinds.data import NAMED


def test_mutated_files_are_read_or_refused_with_their_place(tmp_path):
    hold("data", tmp_path, most=len(NAMED) + 400)
