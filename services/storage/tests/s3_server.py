"""An S3 server of its own process, and a proxy before it that can be told to fail."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import urllib.request
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER = """
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

app = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
print(server.port, flush=True)
server.serve_forever()
"""


@contextmanager
def s3_server() -> Iterator[int]:
    """Runs one on loopback; yields its port."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said, "the S3 server ended"
            yield int(said)
        finally:
            process.kill()


def make_bucket(port: int) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")).close()
    return name


class InBucket:
    """What a service keeps in a bucket, seen from outside."""

    def __init__(self, port: int) -> None:
        self._bucket = make_bucket(port)
        endpoint = f"http://127.0.0.1:{port}"
        self.settings = {"s3_bucket": self._bucket, "s3_endpoint": endpoint, "s3_patience_s": 60}
        self._store = S3Store(self._bucket, config={"endpoint": endpoint, "region": "us-east-1"},
                              client_options={"allow_http": True})  # fmt: skip

    def keys(self, folder: str) -> list[str]:
        return [meta["path"] for page in obstore.list(self._store, prefix=folder) for meta in page]

    def write(self, key: str, content: bytes) -> None:
        obstore.put(self._store, key, content)

    def read(self, key: str) -> bytes:
        return bytes(obstore.get(self._store, key).bytes())


class FaultyProxy:
    """Gives requests on to a server, unless `fault` says what to answer in its place."""

    def __init__(self, port: int) -> None:
        self.fault: Callable[[str, str], int] = lambda _method, _path: 0
        """A status in place of the server's answer, by the request's method and path; 0 for none."""
        self.open = threading.Event()
        """Requests wait while it is not set."""
        self.open.set()
        self.held = 0
        """How many requests have come while it was not."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.held += not proxy.open.is_set()
                proxy.open.wait()
                if status := proxy.fault(self.command, self.path):
                    self._send(status, [], b"")
                    return
                there = http.client.HTTPConnection("127.0.0.1", port)
                there.request(self.command, self.path, body, dict(self.headers))
                answer = there.getresponse()
                self._send(answer.status, answer.getheaders(), answer.read())
                there.close()

            def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response(status)
                skipped = {"transfer-encoding", "connection", "date", "server"}
                length = self.command == "HEAD"
                for name, value in headers:
                    if name.lower() not in skipped and (length or name.lower() != "content-length"):
                        self.send_header(name, value)
                if not length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - Named by http.server.

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
