"""The commands `tad weights …` and `tad features …`: their arguments, and what they print."""

import argparse
import json
from pathlib import Path

from tad.errors import TadError


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tad weights`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")

    p = actions.add_parser("list", help="every file, where it lies or would lie, and whether it is what was published")
    p.add_argument("--root", type=Path, default=Path("data/weights"), help="folder of a folder per backbone")
    p.add_argument("--json", action="store_true", help="all facts, as JSON")

    p = actions.add_parser("fetch", help="download, going on where an earlier try ended; verified, then in place")
    p.add_argument("names", nargs="+", metavar="name", help="a file's name, or a backbone's: what its defaults need")
    p.add_argument("--to", type=Path, help="folder; data/weights/<backbone> by default")

    p = actions.add_parser("verify", help="every file that is there, against published facts and pins")
    p.add_argument("places", nargs="*", type=Path, metavar="place", help="files or folders; data/weights/* by default")


def weights(a: argparse.Namespace) -> None:
    """`tad weights list`, `fetch` and `verify`; a bad file is an error after the lines about all."""
    from tad import weight_fetch, weight_store

    if a.action == "fetch":
        for path in weight_fetch.fetch(a.names, to=a.to):
            print(path)
    elif a.action == "list":
        rows = weight_store.list_weights(a.root)
        for line in [json.dumps(rows, indent=1)] if a.json else weight_store.listed(rows):
            print(line)
    else:
        verdicts = weight_store.verify(a.places)
        for found in verdicts:
            print(f"{found.state:<9} {found.path}: {found.remark}")
        bad = sum(found.state == "BAD" for found in verdicts)
        if bad:
            raise TadError(f"{bad} of {len(verdicts)} files are not what was published; move them away, fetch again")


def add_features(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tad features`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")

    p = actions.add_parser("show", help="a line per video: rows, times, norms, NaN, damage; or one in a picture")
    p.add_argument("index", type=Path, help="index made by merge, convert or join, or a shard")
    p.add_argument("--json", action="store_true", help="the table as JSON")
    p.add_argument("--video", default="", help="one video, with --figure")
    p.add_argument("--figure", type=Path, help="PNG to make: similarity of every two moments of --video")
    p.add_argument("--annotations", type=Path, help="table made by annotate: instances to draw into the picture")

    p = actions.add_parser("export", help="files for other tools, with the timing beside them; convert reads them back")
    p.add_argument("index", type=Path, help="index made by merge, convert or join, or a shard")
    p.add_argument("--to", type=Path, required=True, help="folder, new or of an earlier export")
    p.add_argument("--format", required=True, choices=("npy", "npz", "pt", "h5"))
    p.add_argument("--dtype", default="stored", choices=("stored", "float32", "float16"))
    p.add_argument("--on-nan", default="error", choices=("error", "keep", "exclude"), help="videos that hold NaN")


def features(a: argparse.Namespace) -> None:
    """`tad features show` and `export`; damaged videos are an error after the lines about all."""
    if a.action == "export":
        from tad.features_export import export_features

        print(export_features(a.index, a.to, file_format=a.format, dtype=a.dtype, on_nan=a.on_nan))
        return
    from tad import features_show

    if bool(a.video) != bool(a.figure):
        raise TadError("features show: --video and --figure go together: which video, and the PNG to make")
    if a.figure:
        print(features_show.show_video(a.index, a.video, a.figure, annotations=a.annotations))
        return
    rows = features_show.rows_of(a.index)
    lines = [json.dumps(features_show.as_data(a.index, rows), indent=1)] if a.json else features_show.as_lines(rows)
    for line in lines:
        print(line)
    bad = [row for row in rows if row.state in ("damaged", "NaN")]
    if bad:
        raise TadError(f"{a.index}: {len(bad)} videos are damaged or hold NaN, first '{bad[0].video_id}'; run again")
