"""Clients that contradict each other, kills, malformed messages and commands at once: each job ends once."""

import pytest
from hostile.attack import hold

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_first_round_loses_and_doubles_nothing(tmp_path):
    hold("storm", tmp_path, most=1)
