"""An adapter arrives whole and verified, and an archive with other intentions leaves nothing behind."""

import hashlib
import io
import json
import tarfile

import pytest

from celora.api.client.downloads import local_name, unpack
from celora.errors import StorageError
from celora.storage.received_folder import receive_folder


def archive(*members):
    """A tar archive of names with their contents, or of ``TarInfo``s."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            head, content = (
                (member, b"") if isinstance(member, tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            )
            head.size = len(content)
            tar.addfile(head, io.BytesIO(content))
    return out.getvalue()


def adapter(**files):
    """The archive of an adapter with its manifest."""
    entries = [{"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
               for name, content in files.items()]  # fmt: skip
    manifest = json.dumps({"files": entries}).encode()
    return archive(*((f"bot/{name}", content) for name, content in files.items()), ("bot/manifest.json", manifest))


def received(content, target, size=1000):
    parts = [content[begin : begin + size] for begin in range(0, len(content), size)]
    with receive_folder(target, what="the adapter") as folder:
        unpack(iter(parts), folder)


@pytest.mark.parametrize("size", [1, 511, 4096])
def test_an_adapter_arrives_in_parts_of_any_size(tmp_path, size):
    received(adapter(weights=b"w" * 3000, card=b"c"), tmp_path / "bot", size)
    assert (tmp_path / "bot" / "weights").read_bytes() == b"w" * 3000
    assert [path.name for path in tmp_path.iterdir()] == ["bot"]


def link(kind):
    member = tarfile.TarInfo("bot/link")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "members",
    [
        [("bot/../../evil", b"x")],
        [("/etc/evil", b"x")],
        [("evil", b"x")],
        [("bot/a\\..\\evil", b"x")],
        [link(tarfile.SYMTYPE)],
        [link(tarfile.LNKTYPE)],
        [link(tarfile.FIFOTYPE)],
        [link(tarfile.CHRTYPE)],
        [("bot/twice", b"1"), ("bot/twice", b"2")],
    ],
)
def test_an_archive_that_leads_elsewhere_leaves_nothing(tmp_path, members):
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(StorageError):
        received(archive(*members), inside / "bot")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["inside"]


@pytest.mark.parametrize("cut", [0, 10, 700, 2000])
def test_an_archive_that_breaks_off_leaves_nothing(tmp_path, cut):
    with pytest.raises(StorageError):
        received(adapter(weights=b"w" * 3000)[:cut], tmp_path / "bot")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changed_on_the_way_is_refused(tmp_path):
    with pytest.raises(StorageError, match="another content"):
        received(adapter(weights=b"w" * 3000).replace(b"www", b"wvw", 1), tmp_path / "bot")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "kept"), [("bot-1", "bot-1"), ("../../x", "x"), ("a/b", "a-b"), ("..", "adapter"),
                                            ("", "adapter"), ("~root", "root")])  # fmt: skip
def test_a_name_that_a_server_gave_is_a_name_of_a_folder_here(name, kept):
    assert local_name(name) == kept
