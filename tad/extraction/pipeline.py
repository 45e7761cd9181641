"""The extraction pipeline: reading processes, a thread for preprocessing, and the network, all running in parallel."""

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from types import MappingProxyType

import numpy as np
import torch

from tad.backbones._contract import BackboneBase
from tad.core.prefetch import prefetch
from tad.extraction.batches import Encoder, Preparer, Stream
from tad.settings.stages import ExtractSpec
from tad.video.feed import Chunk, Ended, Feed, Limits
from tad.video.ring import Job

MOST_READERS = 8


def reading(jobs: list[Job], spec: ExtractSpec, workers: int) -> Feed:
    """Create the processes that read the videos of `jobs`; see `tad.stages.extract.extract`."""
    limits = Limits(spec.stall_seconds, spec.reader_mb << 20)
    return Feed(jobs, workers=workers or min(torch.get_num_threads(), MOST_READERS), limits=limits)


def _prepared(feed: Feed, model: BackboneBase, device: torch.device) -> Iterator[tuple[str, torch.Tensor | Ended]]:
    """Iterate over the feed's items: video id with preprocessed frames, or with the end of the video."""
    preparers: dict[str, Preparer] = {}
    with torch.inference_mode(), closing(iter(feed)) as items:
        for item in items:
            if isinstance(item, Chunk):
                if item.video_id not in preparers:
                    preparers[item.video_id] = Preparer(model, device)
                yield item.video_id, preparers[item.video_id](item.frames)
            else:
                preparer = preparers.pop(item.video_id, None)
                last = preparer.finish() if preparer is not None and not item.cause else None
                if last is not None:
                    yield item.video_id, last
                yield item.video_id, item


def _expected(job: Job) -> int:
    """Estimate the number of sampled frames of a video from the manifest."""
    rate = job.rate or job.native_rate
    before = job.start * rate if job.policy == "ffmpeg_cfr" else 0.0
    return math.ceil(before + job.frames * rate / job.native_rate)


def encode(
    jobs: list[Job],
    feed: Feed,
    model: BackboneBase,
    spec: ExtractSpec,
    device: torch.device,
    known: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Generator[Stream | Ended]:
    """Iterate over the videos as they are finished: a `Stream` with the rows, or `Ended` with the cause of a failure.

    `known`: rows (T, C) of the first clips of some videos, which are not computed again.
    A background thread preprocesses frames while the network computes.
    """
    frames = {job.video_id: _expected(job) for job in jobs}
    encoder = Encoder(model, spec=spec, device=device)
    with torch.inference_mode(), closing(prefetch(lambda: _prepared(feed, model, device))) as items:
        try:
            for video_id, item in items:
                if video_id in frames:
                    encoder.begin(video_id, frames=frames.pop(video_id), known_TC=known.get(video_id))
                if not isinstance(item, Ended):
                    encoder.push(video_id, item)
                elif item.cause:
                    encoder.drop(video_id)
                    yield item
                else:
                    encoder.end(video_id)
                yield from encoder.finished()
            yield from encoder.finished(last=True)
        finally:
            feed.stop()  # otherwise the thread could wait for a stalled reader
