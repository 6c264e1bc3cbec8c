"""Malformed base models: each named fault is refused in a sentence, and no mutation ends in anything else."""

import pytest
from hostile.attack import hold
from hostile.kinds.bases import READ, REFUSED


def test_named_faults_and_the_first_two_hundred_mutations_hold(tmp_path):
    hold("bases", tmp_path, most=len(REFUSED) + len(READ) + 200)


@pytest.mark.slow
def test_the_first_malformed_gguf_files_are_converted_or_refused_in_a_sentence(tmp_path):
    hold("conversions", tmp_path, most=12)
