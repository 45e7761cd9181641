"""A share of each class's train videos, drawn by seed: those that keep their labels."""

import logging
from collections import defaultdict

import numpy as np

log = logging.getLogger(__name__)


def draw_labelled(classes: dict[str, str], *, share: float, seed: int) -> set[str]:
    """Videos that keep their labels: of the n videos of a class all but round((1 - share) · n), drawn at random.

    A class of which this would leave no video keeps one; one whose videos have no instance ("") may lose all.

    Args:
        classes: video id → class, that of its first instance as published (SSTAP).
        share: of the videos.
        seed: of the draw.
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
