"""Findings of `tad doctor`, each printed as one line."""

from typing import Literal, NamedTuple

State = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    """One line of `tad doctor`.

    Attributes:
        topic: the subject of the check, such as `readers`.
        state: `ok`; `note`: it works, but slower, or with less, than it could; `problem`: something will fail.
        text: what was found.
        remedy: what to do about it; empty for `ok`.
    """

    topic: str
    state: State
    text: str
    remedy: str = ""

    def line(self) -> str:
        """Return the finding as a line of text."""
        return f"{self.state:<8} {self.topic:<12} {self.text}{f'; {self.remedy}' if self.remedy else ''}"
