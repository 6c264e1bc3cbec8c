"""Names that lead out of the allowed folders, special files and races: the file outside is never read."""

from hostile.attack import hold


def test_every_name_every_race_and_the_first_hundred_odd_names_hold(tmp_path):
    hold("paths", tmp_path, most=180)
