"""A server on the loopback that behaves as the hub and as a plain host do, and as they fail."""

import hashlib
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Host:
    """What it serves and how; `requests` holds (method, path, Range header) of each request."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """Bytes after which each following transfer breaks off; [] for none."""
    declared_sha256: str | None = None
    declared_size: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    plain: bool = False
    """Answer as a mirror does that knows nothing of checksums."""
    sizes: bool = True

    def gets(self):
        """Each GET of a file; the hub's client asks once per process for other things, too."""
        return [one for one in self.requests if one[0] == "GET" and "/resolve/" in one[1]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def host(self) -> Host:
        return self.server.host

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        host = self.host
        host.requests.append((self.command, self.path, self.headers.get("Range")))
        data = host.files.get(self.path.removeprefix("/cdn"))
        if host.status or data is None:
            return self._head(host.status or 404, {"Content-Length": "0"})
        if not host.plain and "/resolve/main/" in self.path and not self.path.startswith("/cdn"):
            return self._as_the_hub(data)
        return self._bytes(data, body)

    def _as_the_hub(self, data):
        sha256 = self.host.declared_sha256 or hashlib.sha256(data).hexdigest()
        headers = {
            "X-Repo-Commit": "0" * 40,
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(self.host.declared_size or len(data)),
            # Elsewhere, as the hub does: its client would follow a redirect to the same host.
            "Location": f"{self.host.url.replace('127.0.0.1', 'localhost')}/cdn{self.path}",
            "Content-Length": "0",
        }
        self._head(302, headers)

    def _bytes(self, data, body):
        start, status, headers = 0, 200, dict(self.host.headers)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and self.host.ranges:
            start, status = int(wanted.group(1)), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        length = {"Content-Length": str(len(data) - start)} if self.host.sizes else {}
        self._head(status, length | headers)
        self.close_connection = not self.host.sizes
        if not body:
            return
        rest = data[start:]
        if self.host.cuts:
            rest = rest[: self.host.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(rest)

    def _head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """Yield a `Host` that answers on the loopback until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    host = server.host = Host(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
