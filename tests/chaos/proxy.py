"""A TCP proxy that stands before a server and does to its connections what networks do.

    with Proxy("127.0.0.1", 6379) as proxy:
        … redis://127.0.0.1:{proxy.port}/0 …
        proxy.mode = "blackhole"        # taken, and never answered
        proxy.reset()                   # every connection ends with RST

Modes: ``pass``; ``down`` (refused: nobody listens); ``reset`` (accepted and cut at once); ``blackhole`` (accepted, and
nothing passes, on open connections neither). Beside them ``latency_s``, ``cut_after`` (a connection is cut when the
server has sent so many bytes), and ``drop_reply_to``: a request that contains these bytes reaches the server, whose
reply is thrown away and the connection cut ("done, but the caller is told that it failed"), with the chance
``drop_share``.
It runs in a thread of its own with its own event loop, so that what is tested may block.
"""

import asyncio
import random
import socket
import struct
import threading

CHUNK = 1 << 16


class Proxy:
    """See the module's docstring.

    Args:
        host: The server's.
        port: The server's.
        listen: A port to listen on; any unless given.
        seed: Of the dice for ``drop_share``.
    """

    def __init__(self, host, port, *, listen=0, seed=0):
        self.target, self.port = (host, port), listen
        self.latency_s, self.cut_after = 0.0, None
        self.drop_reply_to, self.drop_share, self.dropped = None, 1.0, 0
        self._dice = random.Random(seed)
        self._mode, self._pairs = "pass", set()
        self._loop = asyncio.new_event_loop()
        self._server, self._open = None, asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self):
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_):
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def mode(self):
        """What is being done to the connections now."""
        return self._mode

    @mode.setter
    def mode(self, mode):
        assert mode in ("pass", "down", "reset", "blackhole"), mode
        self._do(self._become(mode))

    def reset(self):
        """Cut every open connection with RST; new ones are treated by the mode."""
        self._do(self._cut())

    def _do(self, what):
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=10)

    async def _become(self, mode):
        self._mode = mode
        if mode == "blackhole":
            self._open.clear()
        else:
            self._open.set()
        if mode in ("down", "reset"):
            await self._cut()
        if mode == "down":
            await self._deaf()
        elif self._server is None:
            await self._listen()

    async def _listen(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        if self._mode != "blackhole":
            self._open.set()

    async def _deaf(self):
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close(self):
        await self._deaf()
        self._open.set()
        await self._cut()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)  # the transports say goodbye in the loop's next rounds

    async def _cut(self):
        for pair in list(self._pairs):
            pair.cut()
        await asyncio.sleep(0)

    async def _accept(self, reader, writer):
        if self._mode == "reset":
            _reset(writer)
            return
        try:
            await self._open.wait()
            served = await asyncio.open_connection(*self.target)
            pair = _Pair(self, (reader, writer), served)
            self._pairs.add(pair)
            try:
                await pair.carry()
            finally:
                self._pairs.discard(pair)
        except (OSError, asyncio.CancelledError):  # the server is away, or the proxy ends
            return
        finally:
            _reset(writer)

    async def passable(self):
        """Wait out a blackhole, then the latency."""
        await self._open.wait()
        if self.latency_s:
            await asyncio.sleep(self.latency_s)

    def drops(self, request):
        """Whether the reply to this request gets lost."""
        if self.drop_reply_to is None or self.drop_reply_to not in request:
            return False
        return self._dice.random() < self.drop_share


class _Pair:
    """A client's connection and the server's that belongs to it."""

    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self._sent, self._dropping = 0, False

    async def carry(self):
        ways = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._replies())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.cut()

    def cut(self):
        _reset(self.client[1])
        _reset(self.server[1])

    async def _requests(self):
        while chunk := await _read(self.client[0]):
            await self.proxy.passable()
            self._dropping = self._dropping or self.proxy.drops(chunk)
            await _write(self.server[1], chunk)

    async def _replies(self):
        while chunk := await _read(self.server[0]):
            await self.proxy.passable()
            self._sent += len(chunk)
            if self._dropping:
                self.proxy.dropped += 1
                return self.cut()
            await _write(self.client[1], chunk)
            if self.proxy.cut_after is not None and self._sent > self.proxy.cut_after:
                return self.cut()
        return None


async def _read(reader):
    try:
        return await reader.read(CHUNK)
    except OSError:
        return b""


async def _write(writer, chunk):
    try:
        writer.write(chunk)
        await writer.drain()
    except OSError:
        return


def _reset(writer):
    """Close with RST, as a firewall or a dead host's kernel does."""
    held = writer.get_extra_info("socket")
    if held is not None:
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            return
    writer.transport.abort()
