"""Rows, files and outcomes for the tests of custom annotation files."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.settings import plugins

ROWS = [("a", 1.5, 4.25, "jump", "train"), ("b", 62.0, 70.5, "run", "train"), ("c", 0.0, 9.75, "jump", "test")]


def write(tmp_path: Path, text: str | bytes, name: str = "own.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table_of(
    rows: list[tuple[Any, ...]] = ROWS, *, header: str = "video,start,end,label,split", comma: str = ","
) -> str:
    lines = [header.replace(",", comma), *(comma.join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, or the message of its TadError."""
    try:
        return call(), ""
    except TadError as error:
        return None, str(error)


def read_as(name: str, source: Path, **settings: Any) -> Table:
    """Read a file in the format `name`."""
    table: Table = plugins.read_annotations(name, source, settings)
    return table


def segments(table: Table) -> list[tuple[str, float, float, str]]:
    return [(v, i.start, i.end, i.label) for v, video in table.videos.items() for i in video.instances]


STYLES = {"%": 10, "time": 21, "duration": 46}  # numbers of Excel's own formats, in the order of the styles 1, 2, 3


def cell(value: Any) -> str:
    """A cell of a sheet: a number, a text, (number, style), or XML."""
    if isinstance(value, tuple):
        return f'<c s="{list(STYLES).index(value[1]) + 1}"><v>{value[0]}</v></c>'
    if isinstance(value, str) and not value.startswith("<c"):
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
    return value if isinstance(value, str) else f"<c><v>{value}</v></c>"


def xlsx(
    path: Path,
    rows: Sequence[Sequence[Any]],
    *,
    others: Mapping[str, Sequence[Sequence[Any]]] | None = None,
    hidden: Sequence[str] = (),
    merged: str = "",
    properties: str = "",
) -> Path:
    """A minimal workbook.

    Args:
        rows: of the first sheet, which is called `a`; see `cell`.
        others: further sheets.
        hidden: names of hidden sheets.
        merged: a range of the first sheet, such as A2:A3.
        properties: further XML of the workbook.
    """
    sheets = {"a": rows, **(others or {})}
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = "".join(
        f'<Override PartName="/xl/s{k}.xml" ContentType="{kind}.worksheet+xml"/>' for k in range(len(sheets))
    )
    links = "".join(
        f'<Relationship Id="r{k}" Type="{office}/worksheet" Target="s{k}.xml"/>' for k in range(len(sheets))
    )
    states = ("visible", "hidden")
    names = "".join(
        f'<sheet name="{name}" sheetId="{k + 1}" state="{states[name in hidden]}" r:id="r{k}"/>'
        for k, name in enumerate(sheets)
    )
    styles = "".join(f'<xf numFmtId="{number}" applyNumberFormat="1"/>' for number in (0, *STYLES.values()))
    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
        '"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType='
        f'"{kind}.sheet.main+xml"/><Override PartName="/xl/styles.xml" ContentType="{kind}.styles+xml"/>'
        f"{parts}</Types>",
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {space} xmlns:r="{office}"><sheets>{names}</sheets>{properties}</workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">{links}<Relationship '
        f'Id="rs" Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f"<styleSheet {space}><cellXfs>{styles}</cellXfs></styleSheet>",
    }
    for k, content in enumerate(sheets.values()):
        data = "".join("<row>" + "".join(map(cell, row)) + "</row>" for row in content)
        cells = f'<mergeCells count="1"><mergeCell ref="{merged}"/></mergeCells>' if merged and not k else ""
        files[f"xl/s{k}.xml"] = f"<worksheet {space}><sheetData>{data}</sheetData>{cells}</worksheet>"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path
