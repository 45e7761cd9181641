"""The exception for user errors, and the exceptions that readers raise on damaged or hostile files."""

import pickle
import struct
import zipfile
import zlib
from typing import ClassVar

from tad.core.limits import MESSAGE
from tad.core.printable import one_line

# Any other exception from a reader of a foreign file is a bug in tad.
DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError, RecursionError),
    *(MemoryError, ImportError),
)


class TadError(ValueError):
    """An error that the user can fix.

    The message is one line of at most 500 characters. It names the file or setting, the offending value and a remedy.
    Control characters in it are escaped, since values come from files, and the middle of a longer message is cut out.
    `tad` prints it without a traceback and exits with status 1. Any other exception is a bug in tad and keeps its
    traceback.
    """

    most: ClassVar[int] = MESSAGE  # characters

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message), self.most))


class MissingError(TadError):
    """Several missing inputs, each with a sentence of `tad` that says where to get it; the message may be longer."""

    most = 10 * MESSAGE


class DamagedError(TadError):
    """A file that does not match the checksum that was written with it."""


class StorageError(TadError, OSError):
    """A file that could not be written: full disk, quota, read-only file system, failed device. Also an `OSError`, so
    that caches which can do without their file need not distinguish."""

    def __str__(self) -> str:
        return BaseException.__str__(self)  # that of `OSError` shows only the number


def cause_of(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:120]
