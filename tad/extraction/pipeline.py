"""Videos → their features: reading processes, a thread that prepares frames, and the network, all at once."""

import math
from collections.abc import Iterator
from contextlib import closing

import torch
from torch import nn

from tad.ahead import ahead
from tad.extraction.batches import Encoder, Preparer, Stream
from tad.specs import ExtractSpec
from tad.video.feed import Chunk, Ended, Feed, Limits
from tad.video.ring import Job

MOST_READERS = 8


def reading(jobs: list[Job], spec: ExtractSpec, workers: int) -> Feed:
    """The processes that read the videos of `jobs`; see `tad.stages.extract.extract`."""
    limits = Limits(spec.stall_seconds, spec.reader_mb << 20)
    return Feed(jobs, workers=workers or min(torch.get_num_threads(), MOST_READERS), limits=limits)


def _prepared(feed: Feed, model: nn.Module, device: torch.device) -> Iterator[tuple[str, torch.Tensor | Ended]]:
    """What the feed brings, video by video: frames, prepared for the network, and ends."""
    preparers: dict[str, Preparer] = {}
    with torch.inference_mode(), closing(iter(feed)) as items:
        for item in items:
            if isinstance(item, Chunk):
                if item.video_id not in preparers:
                    preparers[item.video_id] = Preparer(model, device)
                yield item.video_id, preparers[item.video_id](item.frames)
            else:
                preparers.pop(item.video_id, None)
                yield item.video_id, item


def encode(
    jobs: list[Job], feed: Feed, model: nn.Module, spec: ExtractSpec, device: torch.device
) -> Iterator[Stream | Ended]:
    """Each video as it is finished: its rows, or (`Ended`) why there are none. Frames are prepared beside the network,
    by a thread that is a little ahead."""
    frames = {job.video_id: math.ceil(job.frames * (job.rate or job.native_rate) / job.native_rate) for job in jobs}
    encoder = Encoder(model, spec=spec, device=device)
    with torch.inference_mode(), closing(ahead(lambda: _prepared(feed, model, device))) as items:
        try:
            for video_id, item in items:
                if video_id in frames:
                    encoder.begin(video_id, frames=frames.pop(video_id))
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
            feed.stop()  # else the thread might wait for a reader that stands still
