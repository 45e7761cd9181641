"""The two faces of a detector: the published function, defects included, and the one without them."""

from collections.abc import Sequence

from tad.errors import TadError


def corrections_of(face: str, corrections: Sequence[str], *, known: Sequence[str]) -> frozenset[str]:
    """What is repaired: nothing with face parity, else `corrections`, each one of `known`.

    Raises:
        TadError: a face or a correction that does not exist.
    """
    if face not in ("parity", "corrected"):
        raise TadError(f"settings.face: '{face}': write parity (the published function) or corrected")
    for name in corrections:
        if name not in known:
            raise TadError(f"settings.corrections: '{name}': choose among {', '.join(known)}")
    return frozenset(corrections if face == "corrected" else ())
