"""An HTTP server of a folder, on this machine, with the faults that tests ask for."""

import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer(ThreadingHTTPServer):
    """Serves the files below a folder in parts.

    Attributes:
        ranges: whether it sends parts at all.
        busy_every, cut_every: every so many requests answer 503, or end in the middle; 0 for none.
        requests, sent: how many, and bytes of content.
    """

    daemon_threads = True
    ranges, busy_every, cut_every, requests, sent, gone = True, 0, 0, 0, 0, False

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self):
        if self.server.gone:  # connections outlive the server that they were made to
            self.close_connection = True
            return None
        with self.server.lock:
            self.server.requests += 1
            count = self.server.requests
        path = self.server.folder / self.path.lstrip("/")
        if self.server.busy_every and count % self.server.busy_every == 0:
            return self._answer(503, b"")
        if not path.is_file():
            return self._answer(404, b"no such file")
        content = path.read_bytes()
        tag = {"ETag": f'"{zlib.crc32(content):x}"'}
        if not self.server.ranges:
            return self._answer(200, content, tag)
        start, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = content[int(start) : int(last) + 1]
        place = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
        cut = self.server.cut_every and count % self.server.cut_every == 0
        self._answer(206, part, {**tag, "Content-Range": place}, len(part) // 2 if cut else None)

    def _answer(self, status, content, headers=(), sent=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])
        self.close_connection = sent is not None
        with self.server.lock:
            self.server.sent += len(content[:sent])

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(folder: Path):
    """A server of a folder, until the block ends."""
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gone = True
        server.shutdown()
        server.server_close()
        thread.join()
