"""Classification of a decoded video as `ok`, `flawed` or `damaged`.

`ok`: every frame declared by the file was decoded without an error, and the times are consistent. `flawed`: at most a
given fraction of the frames is missing or may be wrong, or times or counts are inconsistent. `damaged`: more than that
fraction, or no frame can be decoded.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tad.video.base import Header
from tad.video.pyav_reader import Tally
from tad.video.structure import BROKEN, ENDS, PARTIAL

log = logging.getLogger(__name__)

# beyond these limits, times and counts are inconsistent
EQUAL_TIMES = 0.02  # fraction of frames with the same time as the previous frame
HEADER_SHARE, HEADER_FRAMES = 0.02, 2.5  # difference between the frame count of the header and the decoded frames
SPAN_SHARE, SPAN_SECONDS = 0.02, 1.0  # seconds of the header's duration after the last frame, without audio
SHORT_SHARE, SHORT_FRAMES = 0.1, 2.5  # the same of a video of a few seconds
# containers whose header states the duration, written when the file was finished
TOLD_DURATION = ("mov", "matroska", "avi", "asf", "flv")


@dataclass(frozen=True, slots=True)
class Health:
    """The status of a video with the counts it is based on."""

    status: str
    cause: str
    flagged: int
    lost: int
    lost_at_start: int
    share: float

    def entry(self) -> dict[str, Any]:
        """Return the fields of the manifest entry."""
        return {
            "status": self.status, "cause": self.cause, "flagged_frames": self.flagged, "lost_frames": self.lost,
            "lost_at_start": self.lost_at_start, "flawed_share": round(self.share, 6),
        }  # fmt: skip


def missing_samples(tally: Tally, promised: tuple[int, int]) -> int:
    """Return the number of samples in the file's index that were not read or that end beyond the file."""
    count, beyond = promised
    return max(count - tally.read, beyond, 0)


def lost_unseen(times: np.ndarray, header: Header, tally: Tally) -> tuple[int, int]:
    """Estimate the damage of a file with a broken structure that the decoder does not report.

    Return the number of lost frames, from gaps between times and the duration in the header, and the number of frames
    after a gap that may be wrong because they depend on lost frames.
    """
    gaps = np.diff(times)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    if usual <= 0:
        return 0, 0
    holes = np.flatnonzero(gaps > 1.5 * usual) + 1  # the first frame after each gap
    lost = int(sum(round(float(gaps[hole - 1]) / usual) - 1 for hole in holes))
    if header.container.partition(",")[0] in TOLD_DURATION:
        lost += max(round((header.duration - header.begin - tally.end) / usual), 0)
    if header.container == "avi":  # the header counts all chunks, including empty ones
        lost = max(lost, header.frames - tally.second_fields - round(tally.end / usual))
    keys = np.array([*tally.keys, len(times)])
    wrong: set[int] = set()
    for hole in holes:
        wrong |= set(range(int(hole), int(keys[np.searchsorted(keys, hole)])))
    return lost, len(wrong)


def contradictions(times: np.ndarray, header: Header, tally: Tally, *, edits: bool) -> list[str]:
    """Return descriptions of inconsistencies: equal times, frame count and duration of the header.

    Args:
        times: times of the frames in seconds, non-decreasing.
        header: metadata of the container.
        tally: statistics of the pass.
        edits: the file has an edit list that removes samples, which its header counts as well.
    """
    problems = []
    equal = int((np.diff(times) <= 0).sum())
    if equal > max(1, EQUAL_TIMES * len(times)):
        problems.append(f"{equal} of {len(times)} frames have the time of the frame before or an earlier one")
    if tally.untimed > max(1, EQUAL_TIMES * len(times)) and tally.times != "rate":
        problems.append(f"{tally.untimed} of {len(times)} frames have no time")
    # an AVI header also counts empty chunks; the end of the last frame is checked below
    counted = header.frames and not edits and header.container != "avi"
    promised = header.frames - tally.second_fields
    if counted and abs(promised - len(times)) > max(HEADER_FRAMES, HEADER_SHARE * promised):
        problems.append(f"the header states {promised} frames, {len(times)} can be decoded")
    told = header.duration if header.container.partition(",")[0] in TOLD_DURATION else 0.0
    if abs(tally.end - told) > abs(tally.end - told + header.begin):  # counted from time 0 instead of the first frame
        told -= header.begin
    late, early = tally.end - told, 0.0 if header.audio else told - tally.end  # the sound may end later
    most, few = max(SPAN_SECONDS, SPAN_SHARE * told), SHORT_FRAMES / (header.rate or SHORT_FRAMES)
    if told and (late > most or early > max(min(most, max(SHORT_SHARE * told, few)), SPAN_SHARE * told)):
        problems.append(f"the header states {told:.2f} s, the last frame ends after {tally.end:.2f} s")
    return problems


def judge(frames: int, tally: Tally, *, missing: int, cut: str, problems: list[str], most: float) -> Health:
    """Classify a file.

    Args:
        frames: number of decoded frames.
        tally: statistics of the pass.
        missing: see `missing_samples`.
        cut: see `tad.video.wholeness.lost_samples`.
        problems: see `contradictions`.
        most: largest fraction of flagged and lost frames of a video that is flawed, not damaged.
    """
    lost = tally.lost + missing
    flagged = tally.flagged - tally.first_flagged
    total = frames + lost
    share = (flagged + lost) / total if total else 1.0
    start = tally.before + tally.first_flagged
    causes, broken = [], cut[:13] == BROKEN[:13]
    if cut == PARTIAL or (broken and not missing):
        causes.append(cut)
    elif cut or missing:
        causes.append(f"truncated: {frames} frames can be decoded" + (f"; {cut}" if broken else ""))
    if tally.ended_by:
        causes.append(tally.ended_by)
    if tally.flagged or tally.lost:
        causes.append(f"decoding fails or conceals damage: {tally.flagged} frames may be wrong, {tally.lost} are lost")
    if tally.before:
        causes.append(f"starts within a group of pictures: its first {tally.before} pictures cannot be decoded")
    causes += problems
    if not frames:
        status = "damaged"
        causes = causes or ["no frame can be decoded"]
    elif share > most or tally.flagged == frames > 1 or ((cut == ENDS or tally.ended_by) and not missing and not lost):
        status = "damaged"  # for a file that ends early without an index, the lost fraction is unknown
    else:
        status = "flawed" if causes else "ok"
    return Health(status, "; ".join(causes), tally.flagged, lost, start, share)


def warn_flawed(usable: Mapping[str, Mapping[str, Any]]) -> None:
    """Log a warning with the number of flawed videos among those used (id → manifest entry).

    Like all warnings of a stage, it is copied to map.json.
    """
    flawed = {video_id: entry for video_id, entry in sorted(usable.items()) if entry["status"] == "flawed"}
    if flawed:
        worst = max(flawed, key=lambda video_id: float(flawed[video_id]["flawed_share"]))
        log.warning(
            "%d of %d videos are flawed but used; worst: %s, %.1f %% of its frames (%s). Leave them out "
            "with the data set's on_flawed: exclude",
            len(flawed), len(usable), worst, 100 * float(flawed[worst]["flawed_share"]), flawed[worst]["cause"],
        )  # fmt: skip
