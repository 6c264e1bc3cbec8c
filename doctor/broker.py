"""Checks the broker and the result backend for `celora doctor`.

The server is queried once (``server.py``); the judges are pure functions of its answer. No message is sent.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from redis.exceptions import NoPermissionError, RedisError

from ..errors import CeloraError, UnavailableError
from ..settings.redaction import without_password
from ..settings.settings import Settings
from ..workers import queues
from ..workers.dropped_messages import DROPPED, DroppedMessage, DroppedMessages
from ..workers.node import broker_roles
from ..workers.node.broker_server import find_server
from .finding import Finding, fail, judged, ok, refused, warn
from .server import Server, client_of, look_at

LEAST = (6, 2)
NEARLY_FULL = 0.9
SCHEMES = ("redis", "rediss", "redis+socket", "unix", "valkey", "valkeys")


def broker(settings: Settings) -> Iterator[Finding]:
    """Check that the broker is reachable; judge its version, persistence, eviction and access."""
    url = settings.broker
    if not url:
        yield _none_set()
        return
    if not _is_redis(url):
        yield _foreign("broker", url)
        return
    try:
        server = look_at(url)
    except UnavailableError as error:
        yield refused("broker", error)
        return
    yield ok("broker", f"{server.shown} answers")
    yield from _messages(url)
    yield from _roles(settings, server)
    if not server.info:
        yield warn(
            "broker.settings",
            "its user may not read INFO, so version, persistence and eviction are not known",
            "Allow that user `+info` and `+config|get`, or look at the server yourself.",
        )
        yield from judged(server, access)
        return
    yield from judged(server, version, persistence, eviction, access)


def _messages(url: str) -> Iterator[Finding]:
    try:
        with client_of(url) as client:
            yield messages(DroppedMessages(client).recent())
    except RedisError as error:
        yield warn("broker.messages", f"the dropped messages can't be read ({error})", "See the broker's own log.")


def _roles(settings: Settings, server: Server) -> Iterator[Finding]:
    """Try with the application's user to read a queue of celora."""
    if server.info and version_of(server) < broker_roles.LEAST:
        yield ok(
            "broker.roles", "this version has one role for all: applications can read and delete celora's messages"
        )
    elif not settings.broker_url:
        yield ok("broker.roles", "only the user of celora's own processes is known here")
    else:
        try:
            with client_of(settings.broker_url) as client:
                client.lrange(queues.ENTRY, 0, 0)  # pyright: ignore[reportUnusedCoroutine]
                yield roles(separate=False)
        except NoPermissionError:
            yield roles(separate=True)
        except RedisError as error:
            yield warn(
                "broker.roles",
                f"the user of applications is refused ({error})",
                "Put the right user and password into CELORA_BROKER_URL.",
            )


def roles(*, separate: bool) -> Finding:
    """Judge the rights of applications on the broker."""
    if separate:
        return ok("broker.roles", "applications can send jobs, and neither read nor delete celora's messages")
    return warn(
        "broker.roles",
        "applications have all rights: they can read and delete celora's messages",
        "Give celora's own processes a user of their own: docs/howto/broker-roles.md.",
    )


def messages(dropped: list[DroppedMessage]) -> Finding:
    """Judge the list of messages that workers dropped: malformed ones, and those that killed a worker."""
    check = "broker.messages"
    if not dropped:
        return ok(check, "no message was dropped")
    killers = [one for one in dropped if one.deadly]
    last = (killers or dropped)[0]  # one that killed a worker matters more than a hundred malformed ones
    which = "the last that killed a worker" if killers else "the last"
    named = f" (task {last.task or 'none'}, id {last.message_id or 'none'})"
    found = f"{len(dropped)} were dropped, {which} at {last.at} from the queue {last.queue}: {last.fault}{named}"
    fix = (
        f"Look who sends to {last.queue}; change the broker's password if it is a stranger. Then clear the list: "
        f"`redis-cli del {DROPPED}`."
    )
    return warn(check, found, fix)


def result_backend(settings: Settings) -> Iterator[Finding]:
    """Check the result backend, where it is not the broker's own database."""
    url = settings.results
    if not url:
        return
    if _bare(url) == _bare(settings.broker):
        yield ok("results", "the broker's own database keeps the results")
    elif not _is_redis(url):
        yield from _any_backend(url)
    else:
        try:
            server = look_at(url)
        except UnavailableError as error:
            yield refused("results", error)
            return
        yield ok("results", f"{server.shown} answers; callers' link, chains and chords need the broker's own database")


def version(server: Server) -> Finding:
    """Judge the version: at least 6.2, which Celery 5.7 needs."""
    own = server.info.get("valkey_version")
    name = f"Valkey {own}" if own else f"Redis {server.info.get('redis_version', '0.0')}"
    if version_of(server) < LEAST:
        return fail("broker.version", f"{name} is too old", "Install Redis or Valkey 6.2 or newer.")
    return ok("broker.version", name)


def version_of(server: Server) -> tuple[int, ...]:
    """Return the major and minor version of Redis that a server is compatible with."""
    compatible = str(server.info.get("redis_version", "0.0"))
    return tuple(map(int, compatible.split(".")[:2]))


def persistence(server: Server) -> Finding:
    """Judge the server's persistence: queued messages must survive its restart."""
    check, info = "broker.persistence", server.info
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if info.get(name, "ok") != "ok":
            return fail(check, f"it could not write its last {what}", "Free its disk, and read its log.")
    if info.get("aof_enabled"):
        return ok(check, "append-only file")
    fix = "Set `appendonly yes` and `appendfsync everysec` on the server."
    if server.save:
        return warn(check, f"snapshots only (save {server.save}): a crash forgets what came after the last one", fix)
    if server.save is None:
        return warn(check, "no append-only file, and it does not tell its rule for snapshots", fix)
    return fail(check, "none: a restart forgets every job that was sent and not yet written down", fix)


def eviction(server: Server) -> Finding:
    """Judge the server's eviction: a broker that evicts keys loses queued messages."""
    check, policy = "broker.eviction", str(server.info.get("maxmemory_policy", "unknown"))
    limit, used = int(server.info.get("maxmemory", 0)), int(server.info.get("used_memory", 0))
    fix = "Set `maxmemory-policy noeviction` on the server, and give what needs eviction a server of its own."
    if policy != "noeviction":
        found = f"maxmemory-policy {policy}"
        if limit:
            return fail(check, f"{found}: above {limit / 2**20:.0f} MiB it throws queued messages away", fix)
        return warn(check, f"{found}, harmless only as long as maxmemory is 0", fix)
    if limit and used > NEARLY_FULL * limit:
        return warn(
            check,
            f"{used / limit:.0%} of its maxmemory are used, and a full broker takes no job",
            "Raise `maxmemory` on the server, or shorten CELORA_RESULT_EXPIRES_S.",
        )
    return ok(check, f"noeviction, {used / 2**20:.1f} MiB used" + (f" of {limit / 2**20:.0f}" if limit else ""))


def access(server: Server) -> Finding:
    """Judge the server's access control: every client that can write to the broker is trusted like an operator."""
    check = "broker.access"
    if server.socket:
        return ok(check, f"unix socket {server.socket}" + ("" if server.open else ", with a password"))
    fix = "Set `requirepass` on the server to a long random one, and the same in CELORA_BROKER_URL."
    if not server.open and server.weak:
        return warn(check, f"it {server.weak}", fix)
    if not server.open:
        return ok(check, "asks for a password")
    if server.local:
        return warn(
            check, "no password on the loopback: every user of this machine can send jobs and read results", fix
        )
    return fail(check, f"no password: whoever reaches {server.host} can send jobs and read results", fix)


def _none_set() -> Finding:
    fix = "Run `celora up`, which brings a broker of its own, or set CELORA_BROKER_URL."
    try:
        find_server()
    except CeloraError as error:
        return refused("broker", error)
    return warn("broker", "none is set and `celora up` does not run here; its own would be started then", fix)


def _foreign(check: str, url: str) -> Finding:
    scheme = url.partition("://")[0]
    return warn(
        check,
        f"a broker of the kind {scheme} is not looked at, and celora was never run on one",
        "Use Redis or Valkey 6.2 or newer.",
    )


def _any_backend(url: str) -> Iterator[Finding]:
    """Check a result backend of another kind through Celery itself."""
    from ..workers.celery import app  # noqa: PLC0415  (Celery takes a third of a second to import)

    shown = without_password(url)
    state = str(app.AsyncResult("celora-doctor").state)  # pyright: ignore[reportUnknownMemberType]
    yield ok("results", f"{shown} answers (an unknown task is {state})")


def _is_redis(url: str) -> bool:
    return urlsplit(url).scheme in SCHEMES


def _bare(url: str) -> str:
    parts = urlsplit(without_password(url))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/").removesuffix("/0"), "", ""))
