"""Random selection of the training videos that keep their labels, stratified by class."""

import logging
from collections import defaultdict

import numpy as np

log = logging.getLogger(__name__)


def draw_labelled(classes: dict[str, str], *, share: float, seed: int) -> set[str]:
    """Draw the videos that keep their labels: n - round((1 - share) · n) of the n videos of each class.

    Every class keeps at least one video, except the group of videos without instances (""), which may lose all.

    Args:
        classes: video id → class. The class of a video is that of its first instance, as published (SSTAP).
        share: share of the videos that keep their labels.
        seed: random seed.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for video_id in sorted(classes):
        members[classes[video_id]].append(video_id)
    rng, chosen, saved = np.random.default_rng(seed), set[str](), []
    for label in sorted(members):
        videos = members[label]
        count = len(videos) - round((1 - share) * len(videos))
        if count == 0 and label:
            count = 1
            saved.append(label)
        chosen |= {videos[k] for k in rng.permutation(len(videos))[:count].tolist()}
    if saved:
        log.warning(
            "a share of %g would leave %d classes without a labelled video: each keeps one (%s)",
            share, len(saved), ", ".join(saved[:5]) + (" …" if len(saved) > 5 else ""),
        )  # fmt: skip
    return chosen
