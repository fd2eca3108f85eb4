"""An unreliable object store: a proxy that fails some requests and stalls others."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SET_BY_SERVER = ("transfer-encoding", "content-length", "connection")


@contextlib.contextmanager
def unreliable(port: int, fails: float, stalls: float, stall_s: float) -> Iterator[tuple[int, Counter[str]]]:
    """Start a proxy before the server at `port` of this machine; give its port and its counts of requests.

    The share `fails` of the requests gets a 500, the share `stalls` waits `stall_s` seconds. The counts are `all`,
    `failed` and `stalled`; where `away` is set in them, all requests fail.
    """
    counts, random_source = Counter[str](), random.Random(0)

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            counts["all"] += 1
            draw = random_source.random()
            if draw < fails or counts["away"]:
                counts["failed"] += 1
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if draw < fails + stalls:
                counts["stalled"] += 1
                time.sleep(stall_s)
            with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=120)) as upstream:
                upstream.request(self.command, self.path, body, dict(self.headers))
                reply = upstream.getresponse()
                content = reply.read()
            length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in SET_BY_SERVER:
                    self.send_header(name, value)
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, counts
    finally:
        server.shutdown()
