"""Inspection of a feature index: a table of its videos (as text or data), and a figure of one video's features."""

# T snippets, C channels, N cells of the picture

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tad.annotations.table import Instance, read_table
from tad.core.errors import TadError
from tad.core.files import publish
from tad.core.grid import Grid
from tad.core.printable import figure_text
from tad.core.progress import track
from tad.features.store import FeatureReader
from tad.settings.plugins import nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CELLS = 1200
MOST_CLASSES = 10
COLOURS = ("#e6550d", "#3182bd", "#31a354", "#d62f8a", "#756bb1", "#8c6d31", "#17a2b8", "#b8860b", "#7f7f7f", "#5b3a29")
OUTLINE = "#59d0ff"


@dataclass(frozen=True)
class Row:
    """A video in the table; times are in seconds, norms are L2 norms of the snippets' features."""

    video_id: str
    state: str
    cause: str = ""
    rows: int = 0
    dim: int = 0
    rate: float = 0.0
    stride: int = 0
    step: float = 0.0
    first: float = 0.0
    last: float = 0.0
    duration: float = 0.0
    norm_mean: float = 0.0
    norm_max: float = 0.0
    nan_share: float = 0.0

    @property
    def covered(self) -> float:
        """Share of the video's duration that its clips cover."""
        inside = min(self.last, self.duration) - max(self.first, 0.0)
        return max(inside, 0.0) / self.duration if self.duration else 0.0


def _norms(feats_TC: np.ndarray) -> np.ndarray:
    """Return the L2 norm of each row in float64; NaN and infinity count as 0."""
    finite_TC = np.nan_to_num(feats_TC.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    norms_T: np.ndarray = np.sqrt((finite_TC**2).sum(axis=1))
    return norms_T


def _ok(reader: FeatureReader, video_id: str) -> Row:
    feats_TC, grid, attrs = reader.stored(video_id), reader.grid(video_id), reader.attrs(video_id)
    norms_T = _norms(feats_TC)
    half = float(attrs["clip_length"]) / float(attrs["rate"]) / 2
    wrong = np.count_nonzero(~np.isfinite(feats_TC))
    return Row(
        video_id, "NaN" if wrong else "ok", "contains NaN or infinity" if wrong else "",
        len(feats_TC), feats_TC.shape[1],
        float(attrs["rate"]), int(attrs["stride"]), grid.step, grid.start - half,
        grid.to_seconds(float(grid.length - 1)) + half, grid.duration,
        float(norms_T.mean()) if len(norms_T) else 0.0, float(norms_T.max(initial=0.0)),
        wrong / feats_TC.size if feats_TC.size else 0.0,
    )  # fmt: skip


def rows_of(index: Path) -> list[Row]:
    """Return a row per video of an index with its state: `ok`, `NaN`, `damaged` or `excluded` (these with the cause).

    Raises:
        TadError: the file is not a readable feature file of tad.
    """
    rows = []
    with FeatureReader(index) as reader:
        for video_id in track(reader.video_ids, "read"):
            try:
                rows.append(_ok(reader, video_id))
            except TadError as error:
                rows.append(Row(video_id, "damaged", str(error).removeprefix(f"{index}: ")))
            except (KeyError, OSError) as error:
                rows.append(Row(video_id, "damaged", f"its group in the file cannot be read ({error})"[:160]))
        rows += [Row(video_id, "excluded", cause) for video_id, cause in reader.excluded.items()]
    return sorted(rows, key=lambda row: row.video_id)


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    """Return totals over the videos."""
    whole = [row for row in rows if row.state in ("ok", "NaN")]
    counts = {state: sum(row.state == state for row in rows) for state in ("ok", "NaN", "damaged", "excluded")}
    return {
        "videos": len(rows), **counts,
        "rows": sum(row.rows for row in whole),
        "dims": sorted({row.dim for row in whole}),
        "hours": sum(row.duration for row in whole) / 3600,
        "covered_median": statistics.median(row.covered for row in whole) if whole else 0.0,
        "norm_mean": sum(row.norm_mean * row.rows for row in whole) / max(sum(row.rows for row in whole), 1),
        "norm_max": max((row.norm_max for row in whole), default=0.0),
    }  # fmt: skip


def as_data(index: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the table and its totals as plain values."""
    with FeatureReader(index) as reader:
        head = {"index": str(index), "identity": reader.stamp["identity"]}
    videos = [{**asdict(row), "covered": row.covered} for row in rows]
    return {**head, "totals": totals(rows), "videos": videos}


def as_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Format the table as lines of text."""
    width = max([len(row.video_id) for row in rows] + [5])
    yield (
        f"{'video':<{width}} {'state':<8} {'rows':>7} {'rate':>7} {'stride':>6} {'step s':>7} {'covers s':>15} "
        f"{'of s':>8} {'%':>4} {'mean L2':>8} {'max L2':>8} {'NaN %':>6}"
    )
    for row in rows:
        if row.state in ("damaged", "excluded"):
            yield f"{row.video_id:<{width}} {row.state:<8} {row.cause}"
            continue
        span = f"{max(row.first, 0.0):.1f}–{row.last:.1f}"
        yield (
            f"{row.video_id:<{width}} {row.state:<8} {row.rows:>7} {row.rate:>7.3f} {row.stride:>6} {row.step:>7.3f} "
            f"{span:>15} {row.duration:>8.1f} {100 * row.covered:>4.0f} {row.norm_mean:>8.3g} {row.norm_max:>8.3g} "
            f"{100 * row.nan_share:>6.2g}"
        )
    total = totals(rows)
    yield (
        f"{total['videos']} videos: {total['ok']} ok, {total['NaN']} with NaN, {total['damaged']} damaged, "
        f"{total['excluded']} excluded; {total['rows']} rows of {' and '.join(map(str, total['dims'])) or 0} "
        f"channels over {total['hours']:.2f} h, "
        f"{100 * total['covered_median']:.0f} % covered (median); L2 norm {total['norm_mean']:.3g} in the mean, "
        f"{total['norm_max']:.3g} at most"
    )


# ── the picture ──


def self_similarity(feats_TC: np.ndarray, *, most: int = MOST_CELLS) -> np.ndarray:
    """Return the cosine similarities (N, N) of all pairs of snippets, N = min(T, `most`).

    Longer videos are averaged over time first. Features of norm 0 have similarity 0 to all, including themselves.
    """
    unit_TC = feats_TC.astype(np.float64)
    if len(unit_TC) > most:
        borders = np.linspace(0, len(unit_TC), most + 1).round().astype(int)
        unit_TC = np.add.reduceat(unit_TC, borders[:-1]) / np.diff(borders)[:, None]
    norms_T1 = np.linalg.norm(unit_TC, axis=1, keepdims=True)
    unit_TC = np.divide(unit_TC, norms_T1, out=np.zeros_like(unit_TC), where=norms_T1 > 0)
    similarity_NN: np.ndarray = np.clip(unit_TC @ unit_TC.T, -1.0, 1.0)
    return similarity_NN


def _annotated(annotations: Path, video_id: str) -> tuple[Instance, ...]:
    table = read_table(annotations)
    if video_id not in table.videos:
        raise TadError(
            f"{annotations}: contains no video '{video_id}'; {nearest(video_id, sorted(table.videos)[:2000])}"
        )
    return table.videos[video_id].instances


def _strip(axes: Any, instances: Sequence[Instance], colours: dict[str, str], *, upright: bool) -> None:
    """Draw instances as bars along an axis; overlapping ones are drawn side by side."""
    lanes: list[float] = []
    placed: list[tuple[int, Instance]] = []
    for instance in sorted(instances, key=lambda i: (i.start, i.end)):
        lane = next((k for k, end in enumerate(lanes) if end <= instance.start), len(lanes))
        lanes[lane : lane + 1] = [instance.end]
        placed.append((lane, instance))
    for lane, instance in placed:
        low, size = lane / len(lanes) + 0.04 / len(lanes), 0.92 / len(lanes)
        length, colour = instance.end - instance.start, colours[instance.label]
        if upright:
            axes.bar(low, length, size, bottom=instance.start, align="edge", color=colour)
        else:
            axes.barh(low, length, size, left=instance.start, align="edge", color=colour)
    (axes.set_xlim if upright else axes.set_ylim)(0, 1)
    axes.spines[:].set_visible(False)


def _colours(instances: Sequence[Instance]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the colour of each label and the legend (colour, text); beyond `MOST_CLASSES`, rare labels share one."""
    counts: dict[str, int] = {}
    for instance in instances:
        counts[instance.label] = counts.get(instance.label, 0) + 1
    labels = sorted(counts, key=lambda label: (-counts[label], label))
    named = labels if len(labels) <= MOST_CLASSES else labels[: MOST_CLASSES - 1]
    colours = {label: COLOURS[min(k, MOST_CLASSES - 1)] for k, label in enumerate(labels)}
    # without a space, a legend leaves out texts that begin with an underscore
    space = {label: " " if label.startswith("_") else "" for label in named}
    legend = [(colours[label], figure_text(f"{space[label]}{label} ({counts[label]})")) for label in named]
    if len(named) < len(labels):
        legend.append((COLOURS[-1], f"{len(labels) - len(named)} further classes"))
    return colours, legend


def draw(
    video_id: str, feats_TC: np.ndarray, grid: Grid, instances: Sequence[Instance], *, title: str = ""
) -> "Figure":
    """Draw the self-similarity of a video's features over time, with its instances as bars along both axes."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    similarity_NN = self_similarity(feats_TC)
    first, last = grid.to_seconds(-0.5), grid.to_seconds(grid.length - 0.5)
    apart = similarity_NN[np.triu_indices(len(similarity_NN), 1)]
    low, high = (float(v) for v in np.percentile(apart, (1, 99.5))) if apart.size else (0.0, 1.0)
    figure = Figure(figsize=(9.6, 9.4), layout="constrained")
    ratios = (0.05, 1.0) if instances else (0.001, 1.0)
    parts = figure.add_gridspec(2, 3, width_ratios=(*ratios, 0.03), height_ratios=ratios, wspace=0.02, hspace=0.02)
    main = figure.add_subplot(parts[1, 1], label="similarity")
    shown = main.imshow(
        similarity_NN, extent=(first, last, last, first), cmap="magma", vmin=low, vmax=max(high, low + 1e-6),
        interpolation="nearest", aspect="auto",  # an equal aspect would misalign it with the bars
    )  # fmt: skip
    end = max(grid.duration, last)
    main.set(xlim=(0, end), ylim=(end, 0), xlabel="seconds", facecolor="#dddddd")
    colours, legend = _colours(instances)
    if instances:
        top = figure.add_subplot(parts[0, 1], sharex=main, label="top")
        left = figure.add_subplot(parts[1, 0], sharey=main, label="left")
        _strip(top, instances, colours, upright=False)
        _strip(left, instances, colours, upright=True)
        top.set_yticks([])
        left.set_xticks([])
        top.tick_params(axis="x", length=0, labelbottom=False)
        main.tick_params(axis="y", length=0, labelleft=False)
        patches = [Patch(color=colour, label=text) for colour, text in legend]
        patches.append(Patch(fill=False, ec=OUTLINE, label="an instance with itself"))
        columns = min(len(patches), 4)
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    (left if instances else main).set_ylabel("seconds")
    for instance in instances:
        size = instance.end - instance.start
        main.add_patch(Rectangle((instance.start, instance.start), size, size, fill=False, lw=0.8, ec=OUTLINE))
    figure.colorbar(shown, cax=figure.add_subplot(parts[1, 2]), label="cosine similarity of features", extend="both")
    many = f", mean of {len(feats_TC) / len(similarity_NN):.1f} per cell" if len(similarity_NN) < len(feats_TC) else ""
    text = f"{video_id}: {len(feats_TC)} snippets, one each {grid.step:.3g} s{many}; {len(instances)} instances"
    figure.suptitle(figure_text(f"{title}\n{text}" if title else text), fontsize=11, x=0.01, ha="left")
    return figure


def show_video(index: Path, video_id: str, figure: Path, *, annotations: Path | None = None) -> Path:
    """Draw one video of an index; see `draw`.

    Raises:
        TadError: the index or the annotations do not contain the video, its features are damaged, or it has no snippet.
    """
    instances = _annotated(annotations, video_id) if annotations else ()
    with FeatureReader(index) as reader:
        if video_id not in reader.video_ids:
            why = f"is excluded: {reader.excluded[video_id]}" if video_id in reader.excluded else "is not in it"
            raise TadError(f"{index}: '{video_id}' {why}; {nearest(video_id, reader.video_ids[:2000])}")
        feats_TC, grid = reader.read(video_id), reader.grid(video_id)
        spec = reader.stamp["spec"]
    if not len(feats_TC):
        raise TadError(f"{index}: '{video_id}' has no snippet; extract it again")
    title = f"{spec.get('features', '')} of {spec.get('dataset', '')}".strip() if spec.get("features") else ""
    drawn = draw(video_id, feats_TC, grid, instances, title=title)
    with publish(figure) as partial:
        drawn.savefig(partial, format="png", dpi=110, metadata={"Software": None})
    return Path(figure)
