"""The clock of a machine that is set while jobs run: no early reap, no lost run of a schedule, none twice."""

import pytest
from hostile.attack import hold

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_first_jump_of_the_only_machine_harms_no_job_and_no_schedule(tmp_path):
    hold("clock_set", tmp_path, most=1)
