"""Random train/test split for annotations without splits, and the order of the labels of custom annotations."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from tad.annotations.notes import Choice
from tad.annotations.table import Video
from tad.core.errors import TadError
from tad.core.printable import plural
from tad.datasets._parse import SPLIT_NAMES, beside, labels_of, read_labels, read_split_file
from tad.datasets._settings import DrawnSplit, StatedSplits


def draw_test(
    videos: Mapping[str, Video], *, share: float, seed: int, unassigned: Collection[str]
) -> tuple[dict[str, Video], Choice]:
    """Split a pool of videos at random into train and test; return all videos and a sentence about the split.

    The pool consists of the videos without a split; if the others leave train or test empty, also of all videos of
    train and test. A `share` of the pool becomes test. The order is a hash of seed and id, so adding a video does not
    move any other video unless the number of test videos grows. A video stays in train if it is the last one there
    with one of its labels.

    Raises:
        TadError: `share` is outside [0, 1), or the pool has fewer than two videos.
    """
    if not 0 <= share < 1:
        raise TadError(f"setting test_share: {share}; it is a share of the videos, at least 0 and below 1")
    present = {video.split for video_id, video in videos.items() if video_id not in unassigned}
    pool = set(unassigned)
    if not {"train", "test"} <= present:
        pool |= {video_id for video_id, video in videos.items() if video.split != "val"}
    if not share or not pool:
        return dict(videos), Choice()
    if len(pool) < 2:
        raise TadError(f"setting test_share: {share}: one video cannot be in train and in test; add videos")
    labels = {video_id: {i.label for i in videos[video_id].instances} for video_id in pool}
    others = [v for v in videos if v not in pool and videos[v].split == "train"]
    left = Counter(label for v in (*pool, *others) for label in {i.label for i in videos[v].instances})
    count = min(max(round(share * len(pool)), 1), len(pool) - 1)
    test: set[str] = set()
    for video_id in sorted(pool, key=lambda v: hashlib.sha256(f"{seed} {v}".encode()).digest()):
        if len(test) < count and all(left[label] > 1 for label in labels[video_id]):
            test.add(video_id)
            left.subtract(labels[video_id])
    if not test:
        raise TadError(
            f"setting test_share: {share}: each video is the only one with one of its labels, so none can be in test;"
            " annotate more videos, or say with the column split which are"
        )
    drawn = {
        video_id: replace(video, split="test" if video_id in test else "train") if video_id in pool else video
        for video_id, video in videos.items()
    }
    drawn_so = f"{len(test)} of {plural(len(pool), 'video')} drawn into test, the others into train"
    return drawn, Choice(f"{drawn_so} (test_share, split_seed)")


def split_and_label(
    source: Path, videos: Mapping[str, Video], settings: DrawnSplit, unassigned: Collection[str]
) -> tuple[dict[str, Video], tuple[str, ...], tuple[str, ...]]:
    """Draw the split of videos without one, and read or collect the labels, as the settings say.

    Returns:
        The videos, the labels in order, and notes about the split for the log.

    Raises:
        TadError: an error of `draw_test`, or the file of labels is invalid.
    """
    drawn, note = draw_test(videos, share=settings.test_share, seed=settings.split_seed, unassigned=unassigned)
    if settings.label_file:
        labels = read_labels(beside(source, settings.label_file))
    else:
        labels = tuple(label for label in labels_of(drawn) if label)
    return drawn, labels, (note,) if note else ()


def split_file(source: Path, settings: StatedSplits) -> dict[str, str]:
    """Read the setting `split_file`, if given: the split of each video.

    Raises:
        TadError: the file is invalid.
    """
    if not settings.split_file:
        return {}
    return read_split_file(beside(source, settings.split_file), {**SPLIT_NAMES, **settings.splits})


def without_rows(by_video: Mapping[str, str], videos: Collection[str], settings: StatedSplits) -> tuple[str, ...]:
    """Return a note about the videos of the setting `split_file` (id → split) that the annotations do not have."""
    absent = [video_id for video_id, split in by_video.items() if split and video_id not in videos]
    if not absent:
        return ()
    file = settings.split_file
    one, many = f"video of {file} has no row here and is", f"videos of {file} have no row here and are"
    return (
        f"{plural(len(absent), one, many)} left out (first: '{absent[0]}'; a row with nothing but the name is a video"
        " without instances)",
    )
