"""Judges and fetches the sources of a dataset: a local file, ``s3://``, ``gs://``, ``https://``, or a hub dataset.

Nothing beyond local files is read before an operator lists its scheme, and its host or bucket. A source is judged when
a job is submitted and again where it is fetched. The source is downloaded whole, under a limit on its size, and only
then read, so that no library ever opens an address that a stranger wrote. This module fetches ``https`` itself and not
through fsspec, which follows redirects to any host and resolves names by itself: here each redirect is judged like the
first address, and the connection goes to the very address that was judged. ``s3`` and ``gs`` go through fsspec, with
the credentials of its environment.

    s3://BUCKET/KEY    gs://BUCKET/KEY    https://HOST/PATH    hub:OWNER/NAME?config=C&split=S&revision=R
"""

import fnmatch
import http.client
import re
import unicodedata
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

import fsspec  # pyright: ignore[reportMissingTypeStubs]

from ...errors import CeloraError, DataError, LimitError, UnavailableError
from ..phases import PhaseProgress
from ..protocol import Emit, PrepareRequest, SourceAccess
from ..web_connection import WEB, Connection, connect
from .hub_datasets import HubDataset, fetch_hub_dataset
from .suffixes import SUFFIXES, suffix_of

BUCKETS = ("s3", "gs")
HUB = "hub"
SCHEMES = (*WEB, *BUCKETS, HUB)
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30
REDIRECTS = 5
REDIRECT = (301, 302, 303, 307, 308)
_GLOB = re.compile(r"[*?\[\]{}]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_LOCAL_HINT = "Download it first and submit the file."


class Remote(NamedTuple):
    """Describes a source that was judged and may be fetched."""

    scheme: str
    url: str
    name: str
    hub: HubDataset | None = None


def is_remote(source: str) -> bool:
    """Check if a source is not a local path; ``judge`` decides its kind and whether it is allowed."""
    return "://" in source or "::" in source or (bool(found := _SCHEME.match(source)) and found[1].lower() in _KNOWN)


_KNOWN = (*SCHEMES, "file", "data", "local", "memory", "ftp")


def judge(source: str, access: SourceAccess) -> Remote:
    """Return the description of a remote source if it may be fetched. No connection is made.

    Raises:
        DataError: The source is malformed, of a scheme or host that is not allowed, or names no file that can be read.
    """
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zs") for letter in source) or "\\" in source:
        raise DataError(f"the dataset {source!r} holds white space, control characters or backslashes.",
                        hint="Percent-encode them.")  # fmt: skip
    if "::" in source:
        raise DataError(f"{source!r} is a chain of URLs.", hint="Give the URL of one file.")
    found = _SCHEME.match(source)
    scheme = found[1].lower() if found else ""
    if scheme == "file":
        raise DataError(f"{source!r} is a file:// URL.", hint="Give an absolute path, without file://.")
    if scheme not in SCHEMES:
        raise DataError(
            f"{source!r} has the scheme {scheme!r}, which celora does not read.", hint=f"Use {', '.join(SCHEMES)}."
        )
    if scheme not in access.allowed_schemes:
        allowed = ", ".join(access.allowed_schemes) or "none"
        raise DataError(
            f"{source!r}: datasets from {scheme} are not allowed on this installation (allowed: {allowed}).",
            hint=f"{_LOCAL_HINT} Or let an operator add {scheme} to CELORA_ALLOWED_SCHEMES.",
        )
    if scheme == HUB:
        dataset = HubDataset.parse(source)
        return Remote(scheme, source, dataset.file_name, dataset)
    return _judge_url(source, scheme, access)


def _judge_url(source: str, scheme: str, access: SourceAccess) -> Remote:
    try:
        parts = urlsplit(source)
        port = parts.port
    except ValueError as error:
        raise DataError(f"{source!r} is no URL ({error}).", hint="Give the URL of one file.") from None
    if not source[len(scheme) :].startswith("://") or not parts.hostname:
        raise DataError(f"{source!r} names no host.", hint=f"Write {scheme}://HOST/PATH.")
    if parts.username is not None or parts.password is not None:
        raise DataError(
            f"the dataset URL of {parts.hostname} carries a user or a password.",
            hint="Secrets stay on the server side: let an operator set the credentials of its environment.",
        )
    if parts.fragment or "#" in source:
        raise DataError(f"{source!r} has a fragment.", hint="Give the URL of one file, without #.")
    if _GLOB.search(parts.path) or (scheme in BUCKETS and "?" in source):
        raise DataError(f"{source!r} is a pattern.", hint="Give the URL of one file.")
    if ".." in PurePosixPath(parts.path).parts or "%2e%2e" in parts.path.lower():
        raise DataError(f"{source!r} climbs with '..'.", hint="Give the plain URL of one file.")
    host = parts.hostname if port in (None, WEB.get(scheme)) else f"{parts.hostname}:{port}"
    if not any(fnmatch.fnmatchcase(host, name.lower()) for name in access.allowed_hosts):
        what = "bucket" if scheme in BUCKETS else "host"
        raise DataError(
            f"{source!r}: the {what} {host} is not allowed on this installation.",
            hint=f"{_LOCAL_HINT} Or let an operator add {host} to CELORA_ALLOWED_HOSTS.",
        )
    name = PurePosixPath(parts.path).name
    if not suffix_of(name):
        raise DataError(
            f"{source!r} names no file that can be read.",
            hint=f"Its path must end in {', '.join(SUFFIXES)}, or in one of these and .gz.",
        )
    return Remote(scheme, source, name)


def fetch(remote: Remote, folder: Path, request: PrepareRequest, emit: Emit) -> Path:
    """Download a source into a folder; a failed download leaves nothing there.

    Args:
        remote: The source, as ``judge`` returned it.
        folder: Created if it does not exist.
        request: The allowed sources (redirects are judged by them too), and the access to the hub.
        emit: Receives the progress, in bytes.

    Returns:
        The file, under the source's own name.

    Raises:
        DataError: The source does not exist, is refused, or redirects to a place that is not allowed.
        LimitError: The source is larger than allowed.
        UnavailableError: The library for its scheme is missing, or the source can't be reached.
    """
    access = request.sources
    folder.mkdir(parents=True, exist_ok=True)
    if remote.hub is not None:
        return fetch_hub_dataset(remote.hub, folder, request.hub, access.max_bytes, emit)
    target = folder / remote.name
    opener = _web if remote.scheme in WEB else _bucket
    try:
        with opener(remote.url, access) as answer:
            _save(answer, target, access.max_bytes, emit)
    except (OSError, http.client.HTTPException) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UnavailableError(
            f"the dataset {_shown(remote.url)} can't be reached ({why}).",
            hint="Look at the URL and at the network, and try again.",
        ) from error
    return target


class _Answer(NamedTuple):
    """Holds a response that is read piece by piece, and the length that it declares."""

    url: str
    chunks: Iterator[bytes]
    size: int | None


def _save(answer: _Answer, target: Path, most_bytes: int, emit: Emit) -> None:
    progress, done = PhaseProgress(emit, f"fetch {target.name}", answer.size), 0
    if most_bytes and (answer.size or 0) > most_bytes:
        raise _too_large(answer.url, most_bytes)
    with ExitStack() as undo, target.open("wb") as file:
        undo.callback(target.unlink, missing_ok=True)
        for chunk in answer.chunks:
            done += len(chunk)
            if most_bytes and done > most_bytes:
                raise _too_large(answer.url, most_bytes)
            file.write(chunk)
            progress.at(done)
        if answer.size is not None and done != answer.size:
            why = f"{_shown(answer.url)} ended after {done} of {answer.size} bytes."
            raise UnavailableError(why, hint="Try again.")
        undo.pop_all()
    progress.end()


def _too_large(url: str, most: int) -> LimitError:
    return LimitError(
        f"the dataset {_shown(url)} is larger than {most / 2**30:.3g} GiB.",
        hint="Split it, or let an operator raise CELORA_PREPARE_FILE_BYTES.",
    )


def _shown(url: str) -> str:
    """Return a URL without its query, which may hold a signature."""
    return url.partition("?")[0]


@contextmanager
def _bucket(url: str, _access: SourceAccess) -> Generator[_Answer]:
    scheme = url.partition(":")[0]
    try:
        files: Any = fsspec.filesystem(scheme, use_listings_cache=False)  # pyright: ignore[reportUnknownMemberType]
    except ImportError as error:
        extra = {"s3": "s3", "gs": "gcs"}[scheme]
        raise UnavailableError(f"reading {scheme}:// needs a part that is not installed ({error}).",
                               hint=f"Run: pip install 'celora[{extra}]'") from error  # fmt: skip
    try:
        size = int(files.info(url)["size"])
        with files.open(url, "rb", block_size=8 * CHUNK_BYTES, cache_type="readahead") as file:
            yield _Answer(url, iter(partial(file.read, CHUNK_BYTES), b""), size)
    except (FileNotFoundError, PermissionError) as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else "may not be read with the credentials here"
        raise DataError(f"the dataset {url} {why}.", hint="Look at its spelling and at who may read it.") from error
    except (CeloraError, OSError):
        raise
    except Exception as error:  # a store's library raises errors of its own
        raise UnavailableError(
            f"the dataset {url} can't be reached ({type(error).__name__}: {error}).",
            hint="Look at the bucket and at the credentials of this environment.",
        ) from error


@contextmanager
def _web(url: str, access: SourceAccess) -> Generator[_Answer]:
    for _ in range(REDIRECTS):
        parts = urlsplit(url)
        with closing(_connected(parts, access)) as connection:
            connection.request(
                "GET",
                (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
                headers={"Accept-Encoding": "identity", "User-Agent": "celora", "Connection": "close"},
            )
            with closing(connection.getresponse()) as answer:
                if answer.status not in REDIRECT:
                    yield _body(url, answer)
                    return
                url = urljoin(url, answer.getheader("Location") or "")
                _judge_redirect(url, access)
    raise DataError(f"{_shown(url)} redirects more than {REDIRECTS} times.", hint=_LOCAL_HINT)


def _body(url: str, answer: http.client.HTTPResponse) -> _Answer:
    if answer.status != http.client.OK:
        raise DataError(
            f"the dataset {_shown(url)} was refused: {answer.status} {answer.reason}.",
            hint="Look at its spelling and at who may read it.",
        )
    length = answer.getheader("Content-Length")
    size = int(length) if length and length.isdigit() else None
    return _Answer(url, iter(partial(answer.read, CHUNK_BYTES), b""), size)


def _judge_redirect(url: str, access: SourceAccess) -> None:
    """Refuse a redirect to a host or scheme that is not allowed; the name of the file there does not matter."""
    parts = urlsplit(url)
    try:
        judge(parts._replace(path="/redirected.jsonl", query="", fragment="").geturl(), access)
    except DataError as error:
        raise DataError(
            f"the dataset redirects to where nothing may be read from: {error.message}", hint=error.hint
        ) from None
    if parts.scheme not in WEB:
        raise DataError(f"the dataset redirects to {parts.scheme}.", hint=_LOCAL_HINT)


def _connected(parts: SplitResult, access: SourceAccess) -> Connection:
    """Connect to a source's host; only an operator's list opens private addresses, and only by the host's very name."""
    host, port = parts.hostname or "", parts.port or WEB[parts.scheme]
    named = host if port == WEB[parts.scheme] else f"{host}:{port}"
    listed = named in [name.lower() for name in access.allowed_hosts]
    hint = "Only an operator can allow it, by its exact name in CELORA_ALLOWED_HOSTS."
    return connect(parts, listed=listed, hint=hint, timeout_s=TIMEOUT_S)
