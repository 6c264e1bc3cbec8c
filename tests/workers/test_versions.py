from importlib.metadata import version

from celora.workers import versions


def test_versions_of_what_is_installed_are_reported_and_python_s():
    found = versions.installed_versions()
    assert found["celora"] == version("celora")
    assert found["python"].startswith("3.")


def test_a_part_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(versions, "REPORTED", ("celora", "no-such-part"))
    assert set(versions.installed_versions()) == {"python", "celora"}
