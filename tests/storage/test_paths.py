"""A path from outside stays below the allowed roots, whatever it looks like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celora.errors import DataError
from celora.storage.paths import confine


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data" / "team").mkdir(parents=True)
    (tmp_path / "data" / "rows.jsonl").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    return tmp_path / "data"


def test_a_file_below_a_root_is_its_real_path(root, tmp_path):
    (root / "link.jsonl").symlink_to(root / "rows.jsonl")
    (tmp_path / "mount").symlink_to(root)
    for path in (root / "rows.jsonl", root / "link.jsonl", root / "team" / ".." / "rows.jsonl"):
        assert confine(str(path), [tmp_path / "else", root]) == root / "rows.jsonl"
    assert confine(str(root / "rows.jsonl"), [tmp_path / "mount"]) == root / "rows.jsonl"
    assert confine(str(root), [root]) == root
    assert confine("/etc/hostname", [tmp_path.__class__("/")]).name == "hostname"
    assert confine(str(root / "größe 日本 {x}.jsonl"), [root]).name == "größe 日本 {x}.jsonl"


@pytest.mark.parametrize(
    "way", ["../secret/key", "team/../../secret/key", "/etc/passwd", "../data-other/x", "", "link/key", "away.jsonl"]
)
def test_no_way_leads_out(root, tmp_path, way):
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "away.jsonl").symlink_to(tmp_path / "secret" / "key")
    source = way if way.startswith("/") or not way else f"{root}/{way}"
    with pytest.raises(DataError) as told:
        confine(source, [root])
    assert told.value.hint


def test_the_allowed_folders_are_named(root):
    with pytest.raises(DataError, match=rf"outside the allowed folders \({root}\).*CELORA_ALLOWED_ROOTS"):
        confine("/etc/passwd", [root])
    with pytest.raises(DataError, match="there are none"):
        confine("/etc/passwd", [])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("s3://bucket/rows.jsonl", "is a URL"),
        ("file:///etc/passwd", "is a URL"),
        ("FILE:/etc/passwd", "is a URL"),
        ("zip://a::/data/x.zip", "is a URL"),
        ("/data/x.zip::rows", "is a URL"),
        ("/data/*.jsonl", "is a pattern"),
        ("/data/rows?.jsonl", "is a pattern"),
        ("/data/[ab].jsonl", "is a pattern"),
        ("/data/rows\x00.jsonl", "control"),
        ("/data/rows\n.jsonl", "control"),
        ("/data/rows\x7f", "control"),
        ("/data/\udcff", "control"),
        ("rows.jsonl", "relative"),
        ("~/rows.jsonl", "relative"),
        ("../rows.jsonl", "relative"),
    ],
)
def test_what_is_no_plain_path_is_refused_in_words(source, said):
    with pytest.raises(DataError, match=said) as told:
        confine(source, ["/"])
    assert told.value.hint


@given(parts=st.lists(st.sampled_from(["..", ".", "a", "team", "", "link", "rows.jsonl"]), max_size=8))
def test_whatever_is_let_through_lies_below_the_root(parts, tmp_path_factory):
    root = tmp_path_factory.getbasetemp() / "fuzz" / "data"
    if not root.exists():
        (root / "team").mkdir(parents=True)
        (root.parent / "secret").mkdir()
        (root / "link").symlink_to(root.parent / "secret")
    try:
        found = confine("/".join([str(root), *parts]), [root])
    except DataError:
        return
    assert found == found.resolve()
    assert found.is_relative_to(root.resolve())
