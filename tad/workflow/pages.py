"""Input functions of the rule `page`, and content keys of files."""

from collections.abc import Collection
from pathlib import Path

from tad.core.files import HashCache, digest
from tad.provenance.fingerprint import ROOT
from tad.settings.config import Config
from tad.settings.paths import path_of
from tad.settings.stages.page import runs_of
from tad.workflow.runs import Wildcards
from tad.workflow.videos import Videos

ASSETS = ROOT / "page" / "assets"


class PageInputs:
    """The part of `tad.workflow.rules.Workflow` that is about pages, and what other parts share with it."""

    config: Config
    hashes: HashCache
    videos: Videos

    def content(self, path: Path, extensions: Collection[str] = ()) -> str:
        """Return a content key of a file or folder; see `HashCache.content`."""
        return self.hashes.content(path, extensions)

    def page_runs(self, wildcards: Wildcards) -> list[str]:
        """Return the trainings on a run's page."""
        return runs_of(self.config, wildcards.run)

    def page_detections(self, wildcards: Wildcards) -> list[str]:
        """Return the detections on a run's page."""
        return [str(path_of("suppress", run=name)) for name in self.page_runs(wildcards)]

    def page_scores(self, wildcards: Wildcards) -> list[str]:
        """Return the scores on a run's page."""
        return [str(path_of("evaluate", run=name)) for name in self.page_runs(wildcards)]

    def page_videos(self, wildcards: Wildcards) -> list[str]:
        """Return the folder of the videos that a run's page plays; empty if its data set has none."""
        dataset = self.config.run(wildcards.run).dataset
        if self.videos.generated(dataset):
            return [str(path_of("rendered_videos", dataset=dataset))]
        folder = self.config.dataset(dataset).videos
        return [folder] if folder and Path(folder).is_dir() else []

    def page_content(self, wildcards: Wildcards) -> str:
        """Return a content key of these videos and of the page's scripts and style."""
        dataset = self.config.run(wildcards.run).dataset
        videos = self.videos.keys(dataset) if self.page_videos(wildcards) else {}
        return digest([sorted(videos.items()), self.content(ASSETS)])
