"""Rotation and mirroring of frames according to the display matrix.

The matrix maps coordinates of the stored frame (x to the right, y downwards) to screen coordinates. Only its upper left
2 x 2 part is used: (x, y) is mapped to (a x + c y, b x + d y).
"""

# H rows, W columns, C channels

import math
import struct
from dataclasses import dataclass

import numpy as np

NEAR_DEGREES = 1.0  # ffmpeg ignores smaller rotations


@dataclass(frozen=True, slots=True)
class Orientation:
    """Transformation of a stored frame for display.

    Attributes:
        rotation: degrees counterclockwise (0, 90, 180, 270), applied after mirroring.
        mirrored: whether the frame is mirrored left to right.
        odd: an angle that is not a multiple of 90 degrees; such frames remain as stored.
    """

    rotation: int = 0
    mirrored: bool = False
    odd: float = 0.0

    def upright(self, image: np.ndarray) -> np.ndarray:
        """Return the frame (H, W, C) as displayed; the same array if nothing changes."""
        if not self.rotation and not self.mirrored:
            return image
        shown = image[:, ::-1] if self.mirrored else image
        return np.ascontiguousarray(np.rot90(shown, self.rotation // 90))


def of_matrix(data: bytes) -> Orientation:
    """Return the orientation of a display matrix of nine 32-bit numbers; the identity for a singular matrix."""
    if len(data) < 36:
        return Orientation()
    a, b, _, c, d = struct.unpack_from("=5i", data)
    determinant = a * d - b * c
    if determinant == 0:
        return Orientation()
    mirrored = determinant < 0
    if mirrored:
        a, b = -a, -b  # undo the mirroring: a rotation remains
    # y points down on the screen, so a rotation from x to +y is clockwise
    clockwise = math.degrees(math.atan2(b, a))
    quarter = round(clockwise / 90)
    off = clockwise - 90 * quarter
    if abs(off) > NEAR_DEGREES:
        return Orientation(odd=-clockwise % 360)
    return Orientation(-90 * quarter % 360, mirrored)
