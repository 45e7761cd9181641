"""A local web server that misbehaves as a test requires."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Send the server's next answer; the last answer is repeated."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        server = self.server
        server.seen.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        answer = server.answers[0] if len(server.answers) == 1 else server.answers.pop(0)
        answer(self)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Print nothing to the terminal."""

    def start(self, status: int, **headers: Any) -> None:
        """Send the status line and headers; underscores stand for hyphens."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Server(ThreadingHTTPServer):
    """A server that answers in order and records each request: (path, Range, If-Range)."""

    answers: list[Answer]
    seen: list[tuple[str, str | None, str | None]]
    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.answers, server.seen = list(answers), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def good(body: bytes, *, ranges: bool = True, etag: str = "") -> Answer:
    """Send the file as a correct server does, with range requests unless `ranges` is off."""

    def answer(h: Handler) -> None:
        named = {"ETag": etag} if etag else {}
        wanted = h.headers.get("Range") if ranges else None
        if wanted and h.headers.get("If-Range", etag) == etag:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(body):
                h.start(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
                return
            span = f"bytes {first}-{len(body) - 1}/{len(body)}"
            h.start(206, Content_Range=span, Content_Length=len(body) - first, **named)
            h.wfile.write(body[first:])
            return
        h.start(200, Content_Length=len(body), Content_Type="application/octet-stream", **named)
        h.wfile.write(body)

    return answer


def cut(body: bytes, at: int, *, claims: int | None = None, etag: str = "") -> Answer:
    """Send headers for the whole file (or for `claims` bytes), then only the first `at` bytes."""

    def answer(h: Handler) -> None:
        named = {"ETag": etag} if etag else {}
        h.start(200, Content_Length=len(body) if claims is None else claims, **named)
        h.wfile.write(body[:at])

    return answer


def stalled(body: bytes, at: int, seconds: float) -> Answer:
    """Send the first `at` bytes, then stall."""

    def answer(h: Handler) -> None:
        h.start(200, Content_Length=len(body))
        h.wfile.write(body[:at])
        h.wfile.flush()
        time.sleep(seconds)

    return answer


def dripping(body: bytes, seconds: float) -> Answer:
    """Send one byte now and then: never silent, never finished."""

    def answer(h: Handler) -> None:
        h.start(200, Content_Length=len(body))
        end = time.monotonic() + seconds
        for byte in body:
            if time.monotonic() > end:
                return
            try:
                h.wfile.write(bytes([byte]))
                h.wfile.flush()
            except OSError:
                return
            time.sleep(0.02)

    return answer


def status(code: int, body: bytes = b"", **headers: Any) -> Answer:
    """Send a status and a body."""

    def answer(h: Handler) -> None:
        h.start(code, Content_Length=len(body), **headers)
        h.wfile.write(body)

    return answer
