"""A URL → a file that is whole and checked, or absent: resumed after a break, refused when it is something else."""

import fcntl
import http.client
import logging
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tad import __version__
from tad.errors import TadError
from tad.files import read_json, settle, write_json

log = logging.getLogger(__name__)
CHUNK = 1 << 18
SLOWEST = 1024  # bytes per second over the stall time; a server that drips keeps a job for ever
SPARE = 64 << 20  # bytes left free on the disk
PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)
REDIRECTS = 5
PASSING = (408, 425, 429)  # and all 5xx
Told = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Patience:
    """How long a server may take. Attempts that bring a further `CHUNK` do not count as failed."""

    stall: float = 60.0
    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 60.0


class _Again(Exception):
    """A failure that may pass; `wait`: seconds that the server asks for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = max_repeats = REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The next request; only to the web, and never from https to http."""
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise TadError(f"{req.full_url}: is redirected to {newurl:.120}, which is not as safe; get it by hand")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def looks_like_page(head: bytes) -> bool:
    """Whether a file that begins like this is a web page: a login, a quota notice, an error."""
    return PAGE.match(head) is not None


def fetch_file(
    url: str, out: Path, *, check: Callable[[Path], None], size: int | None = None, checkable: bool = False,
    patience: Patience | None = None, told: Told | None = None,
) -> Path:
    """Download `url` to `out`, which appears when `check` accepts the bytes; until then they lie in `<out>.partial`.

    Args:
        check: raises TadError on bytes that are not the file; they are then removed.
        size: exact number of bytes, where it is known.
        checkable: `check` knows the content, so that bytes of an earlier attempt may be continued from any server;
            otherwise only where the server says that the file is still the same.
        told: is called with the bytes that are there and the bytes expected.

    Raises:
        TadError: not http(s), absent (4xx), a web page, another length, redirected without end or to an unsafe place,
            no room on the disk, or too many failures; the last leaves the partial file, to go on from.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise TadError(f"{url}: not an http or https address; get the file by hand and put it at {out}")
    partial = out.with_name(out.name + ".partial")
    patience = patience or Patience()
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _held(partial) as file:
        attempt = _Attempt(url, file, size=size, checkable=checkable, patience=patience, told=told or (lambda *_: None))
        _persist(attempt, url, partial, patience)
        file.flush()
        attempt.state.unlink(missing_ok=True)
        try:
            check(partial)
        except TadError:
            partial.unlink()
            raise
        settle(partial, out)
    return out


@contextmanager
def _held(partial: Path) -> Iterator[IO[bytes]]:
    """The partial file, opened for this process alone."""
    with open(partial, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TadError(f"{partial}: another process is fetching this file; wait for it") from None
        try:
            yield file
        finally:
            if partial.is_file() and not file.seek(0, 2):  # nothing came: nothing to go on from
                partial.unlink()


def _persist(attempt: "_Attempt", url: str, partial: Path, patience: Patience) -> None:
    failures, most = 0, attempt.have
    while True:
        try:
            attempt.run()
            return
        except _Again as error:
            failures = 1 if attempt.have >= most + CHUNK else failures + 1
            most = max(most, attempt.have)
            if failures >= patience.attempts:
                kept = f"{attempt.have} bytes are kept in {partial}: the same command goes on from there"
                raise TadError(f"{url}: {error} ({failures} times); {kept}, or get the file by hand") from None
            wait = max(min(patience.pause * 2 ** (failures - 1), patience.longest_pause), error.wait)
            log.warning("%s: %s; trying again in %.0f s", url, error, wait)
            time.sleep(wait)


class _Attempt:
    """One file over several requests; each goes on where the last one ended, as far as that is safe."""

    def __init__(
        self, url: str, file: IO[bytes], *, size: int | None, checkable: bool, patience: Patience, told: Told
    ) -> None:
        self.url, self.file, self.size, self.checkable = url, file, size, checkable
        self.patience, self.told = patience, told
        self.partial = Path(file.name)
        self.state = self.partial.with_name(self.partial.name + ".json")
        self.opener = urllib.request.build_opener(_Redirects())

    @property
    def have(self) -> int:
        """Bytes that are there."""
        return self.file.seek(0, 2)

    def _validator(self) -> str:
        """The version of the file that the partial bytes are of, as the server named it."""
        if not self.state.is_file():
            return ""
        state = read_json(self.state)
        return str(state.get("version", "")) if isinstance(state, dict) and state.get("url") == self.url else ""

    def run(self) -> None:
        """One request to its end.

        Raises:
            _Again: it may go better another time.
            TadError: it will not.
        """
        headers = {"User-Agent": f"tad/{__version__}", "Accept-Encoding": "identity"}
        version = self._validator()
        if self.have and not (self.checkable or version):
            self._start_over()
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            if version:
                headers["If-Range"] = version
        try:
            request = urllib.request.Request(self.url, headers=headers)
            with self.opener.open(request, timeout=self.patience.stall) as response:
                self._receive(response)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise TadError(f"{self.url}: its certificate is not valid ({error.reason.verify_message})") from None
            raise _Again(f"no connection ({error.reason})") from None
        except TimeoutError:
            raise _Again(f"nothing came for {self.patience.stall:g} s") from None
        except (ConnectionError, http.client.HTTPException, ssl.SSLError) as error:
            raise _Again(f"the connection broke ({error or type(error).__name__})") from None

    def _refused(self, error: urllib.error.HTTPError) -> None:
        if error.code == 416 and self.have:
            total = (error.headers.get("Content-Range") or "").removeprefix("bytes */")
            if total == str(self.have) or self.size == self.have:
                return  # all of it was there
            self._start_over()
            raise _Again("the server cannot go on from there")
        if error.code in PASSING or error.code >= 500:
            asked = error.headers.get("Retry-After") or ""
            wait = min(float(asked), self.patience.longest_pause) if asked.isdecimal() else 0.0
            raise _Again(f"{error.code} {error.reason}", wait)
        if 300 <= error.code < 400:
            off = "not allowed" in str(error.reason)
            where = "to a place that is not on the web" if off else f"more than {REDIRECTS} times"
            raise TadError(f"{self.url}: is redirected {where}; get it by hand")
        raise TadError(f"{self.url}: {error.code} {error.reason}; it may have moved: get the file by hand")

    def _start_over(self) -> None:
        self.file.truncate(0)
        self.state.unlink(missing_ok=True)

    def _continues(self, response: Any) -> None:
        """Keep what is there if the answer goes on from its end; else make room for the whole file."""
        if response.status == 206:
            found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
            if not found or int(found[1]) != self.have:
                self._start_over()
                raise _Again("the server sent another part than it was asked for")
        elif self.have:
            log.info("%s: sent from the start again", self.url)
            self._start_over()

    def _promised(self, headers: Mapping[str, str]) -> int | None:
        """Bytes of the whole file by the server's word."""
        stated = headers.get("Content-Length") or ""
        promised = self.have + int(stated) if stated.isdecimal() else None
        if self.size is not None and promised not in (None, self.size):
            raise TadError(
                f"{self.url}: the server offers {promised} bytes, the published file has {self.size}; it is another "
                "file: get the published one by hand"
            )
        free = shutil.disk_usage(self.partial.parent).free
        if promised is not None and promised - self.have + SPARE > free:
            raise TadError(f"{self.partial.parent}: {promised - self.have} bytes to come, {free} free; make room")
        return promised

    def _receive(self, response: Any) -> None:
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise TadError(f"{self.url}: the server sent a web page in place of the file; get the file by hand")
        self._continues(response)
        total = self._promised(response.headers)
        if not self.have:
            etag = response.headers.get("ETag") or ""
            version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified") or ""
            write_json(self.state, {"url": self.url, "version": version})
        self._copy(response, total or self.size)
        for expected in (total, self.size):
            if expected is not None and self.have < expected:
                raise _Again(f"it ended after {self.have} of {expected} bytes")

    def _copy(self, response: Any, total: int | None) -> None:
        done, marked, since = self.have, self.have, time.monotonic()
        while block := response.read1(CHUNK):
            if done == 0 and looks_like_page(block):
                raise TadError(f"{self.url}: the server sent a web page in place of the file; get the file by hand")
            self.file.write(block)
            done += len(block)
            self.told(done, total)
            if self.size is not None and done > self.size:
                self._start_over()
                raise TadError(f"{self.url}: longer than the {self.size} bytes of the published file; get it by hand")
            now = time.monotonic()
            if now - since >= self.patience.stall:
                if done - marked < SLOWEST * (now - since):
                    raise _Again(f"{done - marked} bytes in {now - since:.0f} s")
                marked, since = done, now
