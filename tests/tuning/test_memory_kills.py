"""The kernel's count of the processes that it ended for lack of memory."""

import pytest

from celora.tuning.memory_kills import oom_kills


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),
    ],
)
def test_the_kernels_kills_are_counted_in_both_kinds_of_control_groups(tmp_path, name, text, count):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert oom_kills(tmp_path) == count


def test_without_control_groups_nothing_is_known(tmp_path):
    assert oom_kills(tmp_path) == 0
