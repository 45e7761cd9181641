"""Render blocks of scores as one self-contained HTML page: tables with each average drawn on its interval."""

from collections.abc import Sequence
from html import escape as escape_html

from tad import __version__
from tad.core.printable import printable
from tad.table.scores import NONE, Block, Score
from tad.table.text import percent, spread

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #e3e7ee; --page: #f6f7f9; --card: #fff;
  --tint: 47, 109, 181; --mark: #2f6db5; --warn: #b54708; --warn-back: #fef0c7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2b3240; --page: #12151b;
  --card: #1a1f28; --tint: 92, 155, 226; --mark: #6aa9ee; --warn: #fdb022; --warn-back: #4e3b12; } }
body { margin: 0; padding: 2.5rem 1.5rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 92rem; margin: 0 auto; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 0; }
p { margin: .15rem 0 0; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin-top: 1.5rem;
  padding: 1.1rem 1.25rem; }
.scroll { overflow-x: auto; margin-top: .9rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-size: .8rem; font-weight: 600; color: var(--soft); vertical-align: bottom; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; }
.run { font-weight: 600; }
.deviation { color: var(--soft); font-size: .85em; }
.average { font-weight: 700; }
.best { color: var(--mark); }
.face { display: inline-block; margin-left: .4rem; padding: 0 .45rem; border: 1px solid var(--line); border-radius: 9px;
  font-size: .8em; color: var(--soft); }
.warn { background: var(--warn-back); color: var(--warn); border-radius: 6px; padding: .05rem .4rem; }
svg { display: block; }
.band { fill: rgba(var(--tint), .3); } .seed { stroke: var(--mark); stroke-width: 2; } .dot { fill: var(--mark); }
.axis { stroke: var(--line); } .tick { fill: var(--soft); font-size: 10px; }
footer { margin-top: 1.5rem; font-size: .85rem; color: var(--soft); }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{runs}: temporal action detection</title>
<style>{style}</style></head>
<body><main>
<h1>Temporal action detection</h1>
<p>{runs}. Scores are in percent. Runs in one box were scored on the same instances under the same protocol; runs in
different boxes cannot be compared.</p>
{sections}
<footer>Dot: average mAP over the tIoU thresholds. Line: standard deviation over seeds. Band: bootstrap interval over
videos. Peeked: the epoch was chosen on the split that is scored. Made by tad {version} from map.json files.</footer>
</main></body></html>
"""
WIDTH, HEIGHT, EDGE = 190, 22, 12


def escape(text: str) -> str:
    """Return text as content of a page: no elements, and nothing that reorders or hides the text around it."""
    return escape_html(printable(text))


def _axis(block: Block) -> tuple[float, float]:
    """Return the ends of the scale as fractions: all averages, intervals and deviations, rounded outwards to tenths."""
    values = [s.average_mAP for s in block.scores]
    for score in block.scores:
        values += score.interval.average_mAP if score.interval else ()
        reach = score.std.average_mAP if score.std else 0.0
        values += [score.average_mAP - reach, score.average_mAP + reach]
    low, high = (int(10 * max(min(values), 0.0))) / 10, -(-min(max(values), 1.0) * 10 // 1) / 10
    return (low, high) if high > low else (max(low - 0.1, 0.0), min(high + 0.1, 1.0))


def _place(value: float, axis: tuple[float, float]) -> float:
    low, high = axis
    return EDGE + (WIDTH - 2 * EDGE) * (min(max(value, low), high) - low) / (high - low)


def _scale(axis: tuple[float, float]) -> str:
    low, high = axis
    ends = f'<text class="tick" x="{EDGE}" y="12" text-anchor="middle">{100 * low:g}</text>'
    ends += f'<text class="tick" x="{WIDTH - EDGE}" y="12" text-anchor="middle">{100 * high:g}</text>'
    return f'<svg width="{WIDTH}" height="15" aria-hidden="true">{ends}</svg>'


def _mark(score: Score, axis: tuple[float, float]) -> str:
    """Draw the interval as a band, the standard deviation over seeds as a line and the average as a dot."""
    middle, parts = HEIGHT / 2, [f'<line class="axis" x1="{EDGE}" x2="{WIDTH - EDGE}" y1="11" y2="11"/>']
    title = f"average {percent(score.average_mAP)}"
    if score.interval:
        low, high = score.interval.average_mAP
        x, end = _place(low, axis), _place(high, axis)
        parts.append(f'<rect class="band" x="{x:.1f}" y="5" width="{end - x:.1f}" height="12" rx="3"/>')
        title += f", {100 * score.interval.level:g} % interval {percent(low)} to {percent(high)}"
    if score.std:
        reach = score.std.average_mAP
        x, end = _place(score.average_mAP - reach, axis), _place(score.average_mAP + reach, axis)
        parts.append(f'<line class="seed" x1="{x:.1f}" x2="{end:.1f}" y1="{middle:g}" y2="{middle:g}"/>')
        title += f", deviation over seeds {percent(reach)}"
    parts.append(f'<circle class="dot" cx="{_place(score.average_mAP, axis):.1f}" cy="{middle:g}" r="4"/>')
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img"><title>{title}</title>{"".join(parts)}</svg>'


def _number(value: float, deviation: float | None, column: list[float], *, extra: str = "") -> str:
    """Render a table cell; the closer the value is to the best of its column, the stronger the cell's colour."""
    share = max(0.0, 1 - 8 * (max(column) - value)) if len(column) > 1 else 0.0
    spread_ = f' <span class="deviation">{spread(deviation).strip()}</span>' if deviation is not None else ""
    colour = f' style="background: rgba(var(--tint), {0.16 * share:.2f})"' if share else ""
    return f'<td class="number{extra}"{colour}>{percent(value)}{spread_}</td>'


def _fact(name: str, text: str, score: Score) -> str:
    warns = (name == "epoch" and score.peeked) or (name == "missing" and text != "0")
    body = f'<span class="warn">{escape(text)}</span>' if warns else escape(text)
    return f"<td>{body}</td>"


def _row(score: Score, block: Block, axis: tuple[float, float]) -> str:
    face = f'<span class="face">{escape(score.face)}</span>' if score.face else ""
    peeked = ' <span class="warn">peeked</span>' if score.peeked else ""
    cells = [f'<td class="run">{escape(score.run)}{peeked}</td>', f"<td>{escape(score.detector)}{face}</td>"]
    for t in block.shown:
        column = [other.mAP[t] for other in block.scores]
        cells.append(_number(score.mAP[t], score.std.mAP[t] if score.std else None, column))
    column = [other.average_mAP for other in block.scores]
    honest = [other.average_mAP for other in block.scores if not other.peeked]
    best = len(honest) > 1 and not score.peeked and score.average_mAP == max(honest)
    extra = " average" + " best" * best
    cells.append(_number(score.average_mAP, score.std.average_mAP if score.std else None, column, extra=extra))
    ends = " to ".join(map(percent, score.interval.average_mAP)) if score.interval else NONE
    cells += [f"<td>{_mark(score, axis)}</td>", f'<td class="deviation">{ends}</td>']
    cells += [_fact(name, score.facts()[name], score) for name in block.differing]
    return f"<tr>{''.join(cells)}</tr>"


def _section(block: Block) -> str:
    axis = _axis(block)
    numbers = [*(f"mAP@{t}" for t in block.shown), "average mAP"]
    head = ["<th>run</th>", "<th>detector</th>", *(f'<th class="number">{escape(name)}</th>' for name in numbers)]
    head += [f"<th>{_scale(axis)}</th>", f"<th>{escape(block.level)}</th>"]
    head += [f"<th>{escape(name)}</th>" for name in block.differing]
    rows = "\n".join(_row(score, block, axis) for score in block.scores)
    return (
        f"<section><h2>{escape(block.title)}</h2>\n<p>{escape(block.caption())}</p>\n"
        f'<div class="scroll"><table>\n<thead><tr>{"".join(head)}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
        "</section>"
    )


def page(blocks: Sequence[Block]) -> str:
    """Render the whole page."""
    count = sum(len(block.scores) for block in blocks)
    runs = f"{count} run{'s' * (count > 1)}"
    return PAGE.format(runs=runs, style=STYLE, sections="\n".join(map(_section, blocks)), version=escape(__version__))
