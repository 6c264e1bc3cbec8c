"""Multipart bodies: any split into parts gives the same form, and malformed ones are refused."""

import asyncio

import pytest
from starlette.datastructures import Headers

from celora.api.multipart import MOST_FIELD_BYTES, MultipartForm
from celora.errors import RequestError

BOUNDARY = "xyz"
HEADERS = Headers({"content-type": f"multipart/form-data; boundary={BOUNDARY}"})
CONTENT = bytes(range(256)) * 40 + b"\r\n--xy\r\n"


def part(name, value, filename=None):
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def whole(*parts):
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def read(body, size=7, headers=HEADERS):
    got = []

    async def sink(data):
        got.append(data)

    async def pieces():
        for start in range(0, len(body), size):
            yield body[start : start + size]

    form = MultipartForm(headers, "file", sink)
    asyncio.run(form.read(pieces()))
    return form, b"".join(got)


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_any_split_gives_the_same_form(size):
    form, content = read(whole(part("purpose", b"fine-tune"), part("file", CONTENT, "rows.jsonl")), size)
    assert (form.fields, form.filename, content) == ({"purpose": "fine-tune"}, "rows.jsonl", CONTENT)


def test_the_file_may_come_first_and_be_empty():
    form, content = read(whole(part("file", b"", "a"), part("purpose", b"x")))
    assert (form.fields, form.filename, content) == ({"purpose": "x"}, "a", b"")


@pytest.mark.parametrize(
    "body",
    [
        whole(part("file", b"x", "a"))[:-8],
        b"no multipart at all",
        whole(part("file", b"x", "a"), part("file", b"y", "b")),
        whole(part("purpose", b"x"), part("purpose", b"y")),
        whole(part("other", b"x", "b")),
        whole(part("purpose", b"x" * (MOST_FIELD_BYTES + 1))),
        whole(part("purpose", b"\xff")),
        whole(*(part(f"f{number}", b"x") for number in range(40))),
    ],
)
def test_a_malformed_body_is_refused(body):
    with pytest.raises(RequestError):
        read(body, 4096)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", ""])
def test_another_content_type_is_refused(kind):
    with pytest.raises(RequestError, match="multipart"):
        read(b"", headers=Headers({"content-type": kind}))
