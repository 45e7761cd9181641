"""Limits on what a file may make a reader do: one table for all readers.

Files come from strangers: published features, checkpoints, annotations, results files. What a file declares (sizes,
depth, lengths of numbers and fields) is compared with these limits before memory is allocated or values are built. The
limits are far above genuine files and keep the memory for any file below 10 MB under 1 GiB.
"""

MESSAGE = 500  # characters of an error message
DEPTH = 100  # nested lists and objects in JSON and YAML; our own files have at most 12
INTEGER = 1 << 64  # magnitude from which integers are refused; sizes, dates and ids of files fit
FIELD = 100_000  # characters of a CSV cell
YAML_BYTES = 2 << 20  # PyYAML needs about 300 bytes of memory per byte of a list
YAML_NODES = 1_000_000  # values after all aliases are replaced by what they stand for
UNPACKED = 64 << 20  # bytes that any file may unpack to
RATIO = 16  # bytes that each stored byte may add to `UNPACKED`


class LimitError(ValueError):
    """A file exceeds a limit; the message is a clause without the name of the file."""


def most_unpacked(stored: int) -> int:
    """Return how many bytes may be unpacked from `stored` bytes on disk."""
    return UNPACKED + RATIO * stored


def refuse_bomb(declared: int, stored: int, what: str) -> None:
    """Compare a declared size with the size on disk, before anything is allocated.

    Args:
        declared: bytes that reading would need.
        stored: bytes that the file has for it.
        what: what declares the size, for the message.

    Raises:
        LimitError: the declared size is out of proportion.
    """
    if declared > most_unpacked(stored):
        raise LimitError(f"{what} declares {declared} bytes, but the file holds {stored} bytes for it")


def refuse_integer(value: int, text: object) -> int:
    """Return an integer that fits 64 bits.

    Args:
        value: the integer.
        text: how it was written, for the message.

    Raises:
        LimitError: it needs more bits; no time, count or index does, and floats overflow at 309 digits.
    """
    if not -INTEGER < value < INTEGER:
        raise LimitError(f"the integer {str(text)[:20]}… has {len(str(text))} digits; numbers have at most 19")
    return value
