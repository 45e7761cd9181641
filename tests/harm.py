"""Files that are made to harm: an object that acts when it is unpickled, and broken videos of every usual kind."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


class Harm:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def cut_end(data: bytes, random: np.random.Generator) -> bytes:
    """The first part of a file, 30 to 97 % of it."""
    return data[: int(len(data) * random.uniform(0.3, 0.97))]


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    """Fifty bytes changed, behind the first kilobyte."""
    harmed = bytearray(data)
    for place in random.integers(1024, len(data), 50):
        harmed[place] ^= int(random.integers(1, 256))
    return bytes(harmed)


def zeroed(data: bytes, random: np.random.Generator) -> bytes:
    """40 kB of zeros (of a small file, a quarter of it) in place of what was there."""
    length = min(40 * 1024, len(data) // 4)
    first = int(random.integers(1024, len(data) - length))
    return data[:first] + bytes(length) + data[first + length :]


def header(data: bytes, random: np.random.Generator) -> bytes:
    """Ten bytes of the first kilobyte replaced."""
    harmed = bytearray(data)
    for place in random.integers(0, 1024, 10):
        harmed[place] = int(random.integers(0, 256))
    return bytes(harmed)


def noise(data: bytes, random: np.random.Generator) -> bytes:
    """Random bytes."""
    return random.bytes(len(data) // 8)


def nothing(data: bytes, random: np.random.Generator) -> bytes:
    """No bytes."""
    return b""


def web_page(data: bytes, random: np.random.Generator) -> bytes:
    """What a server sends in place of a file that it does not have."""
    return b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head><body>403</body></html>\n" * 12


# kind → how, and how many of 122 files; `fast start` is for files with their index in front
KINDS: dict[str, tuple[Callable[[bytes, np.random.Generator], bytes], int]] = {
    "cut end": (cut_end, 20), "cut fast start": (cut_end, 20), "50 flipped bytes": (flipped, 20),
    "40 kB of zeros": (zeroed, 20), "10 header bytes": (header, 20), "random": (noise, 20), "empty": (nothing, 1),
    "web page": (web_page, 1),
}  # fmt: skip


def broken(sources: Mapping[str, bytes], fast_start: Mapping[str, bytes]) -> Iterator[tuple[str, str, bytes]]:
    """122 broken files of whole ones: (kind, name of the source, content); the same whenever they are made."""
    for kind, (harm, count) in KINDS.items():
        of = fast_start if kind == "cut fast start" else sources
        for number in range(count):
            name = sorted(of)[number % len(of)]
            seed = zlib.crc32(f"{kind} {name} {number}".encode())
            yield kind, name, harm(of[name], np.random.default_rng(seed))
