"""Download of files with checks: resumes interrupted downloads and rejects anything but the expected file."""

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
from tad.core import formats
from tad.core.errors import TadError
from tad.core.files import read_json, settle, write_json
from tad.core.storage import storing

log = logging.getLogger(__name__)
CHUNK = 1 << 18
SLOWEST = 1024  # minimum bytes per second over the stall time; a slower server would block a job for ever
SPARE = 64 << 20  # minimum free bytes to leave on the disk
PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)
REDIRECTS = 5
PASSING = (408, 425, 429)  # temporary errors, besides all 5xx
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Patience:
    """Time-outs and retries; an attempt that receives at least `CHUNK` bytes resets the count of failures."""

    stall: float = 60.0
    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 60.0


class _Again(Exception):
    """A temporary failure; `wait`: seconds to wait as requested by the server."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = max_repeats = REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the redirected request; only http(s) is allowed, and never from https to http."""
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise TadError(
                f"{req.full_url}: is redirected to {newurl:.120}, which is less secure; download the file manually"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def looks_like_page(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a web page, such as a login or an error page."""
    return PAGE.match(head) is not None


def fetch_file(
    url: str,
    out: Path,
    *,
    check: Callable[[Path], None],
    size: int | None = None,
    checkable: bool = False,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download `url` to `<out>.partial`, and rename it to `out` when `check` accepts it.

    Args:
        url: http(s) address.
        out: file to write.
        check: raises TadError if the content is wrong; the partial file is then removed.
        size: exact number of bytes, if known.
        checkable: `check` verifies the content, so a partial file can be resumed from any server; otherwise it is only
            resumed if the server confirms that the file has not changed.
        patience: time-outs and retries.
        progress: callback with the bytes received and the bytes expected.

    Raises:
        TadError: the URL is not http(s); the file is absent (4xx), a web page, or of another length; redirects are
            endless or insecure; the disk is full; or there are too many failures (the partial file then remains, so
            that the download can resume).
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise TadError(f"{url}: not an http or https address; download the file manually and put it at {out}")
    partial = out.with_name(out.name + ".partial")
    patience = patience or Patience()
    with storing(out, partial, size=size), _held(partial) as file:
        attempt = _Attempt(
            url, file, size=size, checkable=checkable, patience=patience, progress=progress or (lambda *_: None)
        )
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
    """Open the partial file with an exclusive lock."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TadError(f"{partial}: another process is downloading this file; wait for it") from None
        try:
            yield file
        finally:
            if partial.is_file() and not file.seek(0, 2):  # empty: nothing to resume
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
                left = f"{attempt.have} bytes are in {partial}: run the same command to resume"
                raise TadError(f"{url}: {error} ({failures} times); {left}, or download the file manually") from None
            wait = max(min(patience.pause * 2 ** (failures - 1), patience.longest_pause), error.wait)
            log.warning("%s: %s; trying again in %.0f s", url, error, wait)
            time.sleep(wait)


class _Attempt:
    """Download of one file by several requests; each resumes where the last one ended, if that is safe."""

    def __init__(
        self, url: str, file: IO[bytes], *, size: int | None, checkable: bool, patience: Patience, progress: Progress
    ) -> None:
        self.url, self.file, self.size, self.checkable = url, file, size, checkable
        self.patience, self.progress = patience, progress
        self.partial = Path(file.name)
        self.state = self.partial.with_name(self.partial.name + ".json")
        self.opener = urllib.request.build_opener(_Redirects())

    @property
    def have(self) -> int:
        """Number of bytes received so far."""
        return self.file.seek(0, 2)

    def _validator(self) -> str:
        """Return the server's version tag (ETag or date) of the partial file."""
        if not self.state.is_file():
            return ""
        state = read_json(self.state)
        return str(state.get("version", "")) if isinstance(state, dict) and state.get("url") == self.url else ""

    def run(self) -> None:
        """Perform one request.

        Raises:
            _Again: a temporary failure.
            TadError: a permanent failure.
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
            raise _Again(f"no data for {self.patience.stall:g} s") from None
        except (ConnectionError, http.client.HTTPException, ssl.SSLError) as error:
            raise _Again(f"the connection broke ({error or type(error).__name__})") from None

    def _refused(self, error: urllib.error.HTTPError) -> None:
        if error.code == 416 and self.have:
            total = (error.headers.get("Content-Range") or "").removeprefix("bytes */")
            if total == str(self.have) or self.size == self.have:
                return  # the file was already complete
            self._start_over()
            raise _Again("the server cannot resume from there")
        if error.code in PASSING or error.code >= 500:
            asked = error.headers.get("Retry-After") or ""
            wait = min(float(asked), self.patience.longest_pause) if asked.isdecimal() else 0.0
            raise _Again(f"{error.code} {error.reason}", wait)
        if 300 <= error.code < 400:
            off = "not allowed" in str(error.reason)
            where = "to a place that is not on the web" if off else f"more than {REDIRECTS} times"
            raise TadError(f"{self.url}: is redirected {where}; download it manually")
        raise TadError(f"{self.url}: {error.code} {error.reason}; it may have moved: download the file manually")

    def _start_over(self) -> None:
        self.file.truncate(0)
        self.state.unlink(missing_ok=True)

    def _continues(self, response: Any) -> None:
        """Check that the response resumes at the end of the partial file; otherwise start over."""
        if response.status == 206:
            match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
            if not match or int(match[1]) != self.have:
                self._start_over()
                raise _Again("the server sent another range than requested")
        elif self.have:
            log.info("%s: the server cannot resume; downloading from the start", self.url)
            self._start_over()

    def _promised(self, headers: Mapping[str, str]) -> int | None:
        """Return the size of the whole file as stated by the server; None if it states none.

        Raises:
            TadError: it differs from the published size, or the disk is too full.
        """
        stated = headers.get("Content-Length") or ""
        promised = self.have + int(stated) if stated.isdecimal() else None
        if self.size is not None and promised not in (None, self.size):
            raise TadError(
                f"{self.url}: the server offers {promised} bytes, but the published file has {self.size}; download the "
                "published file manually"
            )
        free = shutil.disk_usage(self.partial.parent).free
        if promised is not None and promised - self.have + SPARE > free:
            raise TadError(
                f"{self.partial.parent}: {promised - self.have} bytes needed, {free} free; free some disk space"
            )
        return promised

    def _receive(self, response: Any) -> None:
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise TadError(f"{self.url}: the server sent a web page instead of the file; download the file manually")
        self._continues(response)
        total = self._promised(response.headers)
        if not self.have:
            etag = response.headers.get("ETag") or ""
            version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified") or ""
            write_json(self.state, {**formats.mark("download"), "url": self.url, "version": version})
        self._copy(response, total or self.size)
        for expected in (total, self.size):
            if expected is not None and self.have < expected:
                raise _Again(f"the transfer ended after {self.have} of {expected} bytes")

    def _copy(self, response: Any, total: int | None) -> None:
        done, marked, since = self.have, self.have, time.monotonic()
        while block := response.read1(CHUNK):
            if done == 0 and looks_like_page(block):
                raise TadError(f"{self.url}: the server sent a web page instead of the file; download it manually")
            self.file.write(block)
            done += len(block)
            self.progress(done, total)
            if self.size is not None and done > self.size:
                self._start_over()
                raise TadError(
                    f"{self.url}: longer than the {self.size} bytes of the published file; download it manually"
                )
            now = time.monotonic()
            if now - since >= self.patience.stall:
                if done - marked < SLOWEST * (now - since):
                    raise _Again(f"{done - marked} bytes in {now - since:.0f} s")
                marked, since = done, now
