"""Features made of keypoints: posture relative to the body, and speeds in body lengths per second.

Channels of an individual, with P points: x and y of each point, relative to the centre of the body and divided by the
body length (2 P); speed of each point in the image (P); confidence (P); whether the point was missing and interpolated
(P); velocity of the centre along x and y; share of points that were not missing. After all individuals follow the
distances between the centres of each pair, in mean body lengths.
"""

# T frames, I individuals, P points, C channels, N snippets

import logging
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np

from tad.core.errors import TadError
from tad.features.poses import Poses, read_poses
from tad.settings.clips import ClipSpec
from tad.settings.keypoints import KeypointSpec

log = logging.getLogger(__name__)
SUFFIXES = (".h5", ".csv")  # of two files of a tool with the same name, the first kind is read
SCORER = re.compile(r"(?<=.)DLC\w*?shuffle\d+\w*$")  # DeepLabCut appends the name of its network
SLEAP = re.compile(r"^.*?\.v?\d{3}_(?=.)")  # SLEAP puts the name of its project and a number first


def _filled(values_TX: np.ndarray, present_T: np.ndarray) -> np.ndarray:
    """Interpolate the rows of absent frames linearly in time; rows before the first and after the last repeat it."""
    frames = np.arange(len(values_TX))
    columns = [np.interp(frames, frames[present_T], column[present_T]) for column in values_TX.T]
    return np.stack(columns, axis=1)


def _body_length(xy_TP2: np.ndarray, seen_TP: np.ndarray, spec: KeypointSpec) -> float:
    """Return the body length in pixels; 0 if no frame shows two points that are apart."""
    if spec.length:
        first, last = (spec.points.index(name) for name in spec.length)
        both_T = seen_TP[:, first] & seen_TP[:, last]
        apart_T = np.linalg.norm(xy_TP2[both_T, first] - xy_TP2[both_T, last], axis=1)
    else:
        counts_T = seen_TP.sum(axis=1)
        most_T = (counts_T == counts_T.max()) & (counts_T > 1)
        apart_T = np.zeros(int(most_T.sum()))
        for first, last in combinations(range(len(spec.points)), 2):
            both_T = (seen_TP[:, first] & seen_TP[:, last])[most_T]
            pair_T = np.linalg.norm(xy_TP2[most_T, first] - xy_TP2[most_T, last], axis=1)
            apart_T = np.where(both_T, np.maximum(apart_T, np.nan_to_num(pair_T)), apart_T)
    return float(np.median(apart_T)) if len(apart_T) else 0.0


def _velocity(xy_T2: np.ndarray, rate: float, over: float) -> np.ndarray:
    """Return the velocity (T, 2) per second, between the positions `over` seconds apart around each frame."""
    half = max(round(over * rate / 2), 1)
    frames = np.arange(len(xy_T2))
    before, after = np.maximum(frames - half, 0), np.minimum(frames + half, len(xy_T2) - 1)
    velocity: np.ndarray = (xy_T2[after] - xy_T2[before]) * (rate / np.maximum(after - before, 1))[:, None]
    return velocity


def _individual(
    xy_TP2: np.ndarray, confidence_TP: np.ndarray, rate: float, spec: KeypointSpec
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the channels (T, C) of one individual, its centre (T, 2) in pixels and its body length."""
    frames, count = confidence_TP.shape
    seen_TP = np.isfinite(xy_TP2).all(axis=2) & (confidence_TP >= spec.confidence)
    length = _body_length(xy_TP2, seen_TP, spec)
    flags = [confidence_TP, (~seen_TP).astype(np.float64)]
    share_T1 = seen_TP.mean(axis=1, keepdims=True)
    if not length:
        still = np.zeros((frames, 3 * count))
        return np.concatenate([still, *flags, np.zeros((frames, 2)), share_T1], axis=1), np.zeros((frames, 2)), 0.0
    ever_P = seen_TP.any(axis=0)
    centred = [p for p, name in enumerate(spec.points) if ever_P[p] and (not spec.centre or name in spec.centre)]
    centred = centred or [p for p in range(count) if ever_P[p]]
    known = {p: _filled(xy_TP2[:, p], seen_TP[:, p]) for p in range(count) if ever_P[p]}
    centre_T2: np.ndarray = np.mean([known[p] for p in centred], axis=0)
    posture, speeds = [], []
    for p in range(count):
        # a point that is never seen lies in the centre, and is flagged
        place_T2: np.ndarray = known.get(p, centre_T2)
        posture.append((place_T2 - centre_T2) / length)
        speeds.append(np.linalg.norm(_velocity(place_T2, rate, spec.speed_over), axis=1, keepdims=True) / length)
    moving_T2 = _velocity(centre_T2, rate, spec.speed_over) / length
    return np.concatenate([*posture, *speeds, *flags, moving_T2, share_T1], axis=1), centre_T2, length


def keypoint_features(poses: Poses, rate: float, spec: KeypointSpec) -> np.ndarray:
    """Return the features (T, C) of each frame, float32; see the head of this module for the channels.

    Args:
        poses: keypoints of the video.
        rate: frames per second of the keypoints.
        spec: settings.
    """
    parts, centres, lengths = [], [], []
    for i in range(poses.xy_TIP2.shape[1]):
        part_TC, centre_T2, length = _individual(poses.xy_TIP2[:, i], poses.confidence_TIP[:, i], rate, spec)
        parts.append(part_TC)
        centres.append(centre_T2)
        lengths.append(length)
    for first, last in combinations(range(len(parts)), 2):
        apart_T1 = np.linalg.norm(centres[first] - centres[last], axis=1, keepdims=True)
        both = lengths[first] and lengths[last]
        parts.append(apart_T1 / ((lengths[first] + lengths[last]) / 2) if both else np.zeros_like(apart_T1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def clip_means(frames_TC: np.ndarray, clip: ClipSpec) -> np.ndarray:
    """Return the mean (N, C) over the frames of each clip; a video shorter than one clip gives one row."""
    starts = np.arange(max((len(frames_TC) - clip.length) // clip.stride, 0) + 1) * clip.stride
    sums = np.concatenate([np.zeros((1, frames_TC.shape[1])), np.cumsum(frames_TC, axis=0, dtype=np.float64)])
    ends = np.minimum(starts + clip.length, len(frames_TC))
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)[:, None]
    return means.astype(np.float32)


class KeypointFiles:
    """Keypoint files of videos: a folder (with subfolders) that has one file per video.

    The names that DeepLabCut and SLEAP add to a video's name are removed. Used by convert in place of
    `tad.features.foreign.FeatureFiles`.

    Args:
        source: the folder.
        spec: settings.
        clip: clips whose frames are averaged.
        rate_of: frames per second of a video's keypoints.
        prefix: prefix of file names before the video id.

    Attributes:
        paths: file of each video id.
        files: all files, sorted.

    Raises:
        TadError: the source is not a folder, or a video has two files.
    """

    export = None

    def __init__(
        self, source: Path, spec: KeypointSpec, clip: ClipSpec, *, rate_of: Callable[[str], float], prefix: str = ""
    ) -> None:
        self.source, self.spec, self.clip, self.prefix = Path(source), spec, clip, prefix
        self._rate_of = rate_of
        self.paths: dict[str, Path] = {}
        if not self.source.is_dir():
            what = "not a folder of keypoint files" if self.source.exists() else "no such folder"
            raise TadError(f"{source}: {what}; give a folder with a .h5 or .csv file per video")
        found = sorted((SUFFIXES.index(p.suffix), p) for p in self.source.rglob("*") if p.suffix in SUFFIXES)
        for _, path in found:
            video_id = self._video_id(path)
            if not video_id or self.paths.get(video_id) == path.with_suffix(SUFFIXES[0]):
                continue
            if video_id in self.paths:
                raise TadError(
                    f"{path}: {self.paths[video_id]} belongs to the same video; remove one of them, or set "
                    "keypoints.suffix"
                )
            self.paths[video_id] = path
        self.files = sorted(self.paths.values())

    def _video_id(self, path: Path) -> str:
        """Return the video of a file; empty if it has another prefix or suffix."""
        stem = path.name.removesuffix(path.suffix)
        if not path.is_file() or not stem.startswith(self.prefix) or not stem.endswith(self.spec.suffix):
            return ""
        stem = stem.removeprefix(self.prefix).removesuffix(self.spec.suffix)
        if stem.endswith(".analysis"):
            return SLEAP.sub("", stem.removesuffix(".analysis"))
        return SCORER.sub("", stem)

    def facts(self, video_id: str) -> None:
        """Return None: keypoint files are no exported features."""

    def read(self, video_id: str) -> np.ndarray:
        """Return the features (N, C) of a video, one row per clip.

        Raises:
            TadError: the file is damaged, or lacks a point or an individual; or the frame rate is unknown.
        """
        path = self.paths[video_id]
        poses = read_poses(path, self.spec.points, self.spec.individuals)
        if not np.isfinite(poses.xy_TIP2).any():
            log.warning("%s: no point is visible in any frame: all of its features are 0", path)
        return clip_means(keypoint_features(poses, self._rate_of(video_id), self.spec), self.clip)
