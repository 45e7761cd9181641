"""The one exception that speaks to the user, and what readers raise on files that are damaged or made to harm."""

import pickle
import zipfile

# anything else that a reader of a foreign file raises is a defect of ours
DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, MemoryError, ImportError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError, RecursionError),
)


class TadError(ValueError):
    """Something the user can fix.

    The message is one line and names the file (or setting), the offending value and the remedy; `tad` prints it
    without a traceback and exits with status 1. Anything else that is raised is a defect of ours and keeps its
    traceback.
    """


def cause_of(error: BaseException) -> str:
    """The first line of an error, or its type where it says nothing."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:120]
