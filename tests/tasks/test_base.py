"""The task decorator refuses what it does not know."""

import pytest

from celora.tasks.base import task


def test_a_misspelled_option_is_refused_at_import():
    with pytest.raises(TypeError, match="unknown option ignore_results; known are acks_late"):
        task("wrong", ignore_results=True)
