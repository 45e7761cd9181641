"""The exception for user errors, and the exceptions that readers raise on damaged or hostile files."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tad.core.limits import MESSAGE
from tad.core.printable import one_line

# Any other exception from a reader of a foreign file is a bug in tad.
DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError, RecursionError),
    *(MemoryError, ImportError),
)


@dataclass(frozen=True)
class Remedy:
    """Part of a message that names a setting of config.yaml; a command names its option instead (`TadError.reword`).

    Attributes:
        key: what the words say; equal in all messages that say it.
        text: the words.
        value: what other words need to know.
    """

    key: str
    text: str
    value: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Message:
    """Text in pieces, some of which may be replaced; `str` joins them."""

    pieces: tuple["str | Remedy | Message", ...]

    def __str__(self) -> str:
        return "".join(map(str, self.pieces))

    def reworded(self, words: Mapping[str, str]) -> "Message":
        """Return the message with other words for its remedies.

        Args:
            words: key of a remedy → its words, in which `{value}` stands for its value. Others stay.
        """
        return Message(tuple(_reworded(piece, words) for piece in self.pieces))


def _reworded(piece: str | Remedy | Message, words: Mapping[str, str]) -> str | Remedy | Message:
    if isinstance(piece, Message):
        return piece.reworded(words)
    if isinstance(piece, Remedy) and piece.key in words:
        return words[piece.key].format(value=piece.value)
    return piece


class TadError(ValueError):
    """An error that the user can fix.

    The message is one line of at most 500 characters. It names the file or setting, the offending value and a remedy.
    Control characters in it are escaped, since values come from files, and the middle of a longer message is cut out.
    `tad` prints it without a traceback and exits with status 1. Any other exception is a bug in tad and keeps its
    traceback.

    Args:
        message: the message, or its pieces, which are joined.
    """

    most: ClassVar[int] = MESSAGE  # characters

    def __init__(self, *message: object) -> None:
        pieces = (piece if isinstance(piece, Remedy | Message) else str(piece) for piece in message)
        self.message = Message(tuple(pieces))
        super().__init__(one_line(str(self.message), self.most))

    def reword(self, words: Mapping[str, str]) -> None:
        """Use other words for the remedies in the message, see `Message.reworded`; raise the error again afterwards."""
        self.message = self.message.reworded(words)
        self.args = (one_line(str(self.message), self.most),)


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
