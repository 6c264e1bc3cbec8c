"""A receiver of webhooks that records what it got, and answers by the path: a status, a redirect, silence, a flood."""

import http.server
import threading
from contextlib import contextmanager, suppress


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers ``/500`` with 500, ``/redirect`` with a redirect to ``/200``, ``/silent`` never, ``/flood`` for ever.

    The head of ``/drip`` comes byte by byte and has no end.
    """

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        name = self.path.strip("/").partition("?")[0]
        while not self.server.go_on.wait(0.1) and not self.server.ended.is_set():
            pass
        if name == "silent":
            self.server.ended.wait(60)
            return
        with suppress(OSError):  # a sender that was killed reads no answer
            self._answer(name)

    def _answer(self, name):
        if name == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not self.server.ended.wait(0.02):
                self.wfile.write(b"x")
            return
        self.send_response(302 if name == "redirect" else int(self.server.status or (200 if name == "flood" else name)))
        self.send_header("Location", "/200")
        self.send_header("Content-Length", str(2 << 30) if name == "flood" else "0")
        self.end_headers()
        if name == "flood":
            while not self.server.ended.is_set():
                try:
                    self.wfile.write(b"x" * 65536)
                except OSError:
                    self.server.cut.set()
                    return


@contextmanager
def listening():
    """Serve on a free port of the loopback; ``url`` is its address, ``got`` the requests; ``go_on`` holds answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads, server.got, server.status = True, [], None
    server.ended, server.cut, server.go_on = threading.Event(), threading.Event(), threading.Event()
    server.go_on.set()
    server.host = f"127.0.0.1:{server.server_address[1]}"
    server.url = f"http://{server.host}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
