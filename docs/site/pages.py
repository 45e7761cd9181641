"""Hook of the documentation site: makes the pages about commands and settings from the code and the schema."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "benchmarks" / "reports"
REPORT = re.compile(r"\]\((?:\.\./)+benchmarks/reports/([\w.-]+\.md)(#[\w-]*)?\)")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:benchmarks|zoo|tad|tests|rules|config)[^)]*\)")
sys.path.insert(0, str(ROOT))


def _cell(text: object) -> str:
    """Return text for a cell of a table: one line, without what would end the cell or start HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def commands() -> str:
    """Return the page of all commands."""
    from tad.commands.command_table import COMMANDS, GROUPS
    from tad.settings.stage_table import STAGES

    lines = ["# Commands", "", "`tad COMMAND --help` prints the arguments of a command."]
    for group, title in GROUPS.items():
        lines += ["", f"## {title[:1].upper()}{title[1:]}", "", "| command | does |", "|---|---|"]
        for command in COMMANDS.values():
            if command.group == group:
                names = [f"{command.name} {action.name}" for action in command.actions] or [command.name]
                helps = [action.help for action in command.actions] or [command.help]
                lines += [f"| `tad {name}` | {_cell(text)} |" for name, text in zip(names, helps, strict=True)]
    lines += [
        "",
        "## Stages",
        "",
        "The workflow calls these; each also works alone.",
        "",
        "| command | does |",
        "|---|---|",
    ]
    lines += [f"| `tad {stage.name}` | {_cell(stage.help)} |" for stage in STAGES.values()]
    return "\n".join(lines) + "\n"


def _kind(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(filter(None, map(_kind, field["anyOf"]))))
    return str(field.get("type", ""))


def _default(field: dict[str, Any]) -> str:
    return f"`{json.dumps(field['default'])}`" if "default" in field and field["default"] not in ({}, []) else ""


def settings() -> str:
    """Return the page of all settings, from config.schema.json."""
    schema = json.loads((ROOT / "config.schema.json").read_text(encoding="utf-8"))
    lines = [
        "# Settings",
        "",
        "All settings of `config.yaml`, from `config.schema.json`, which editors read.",
    ]
    groups = {"config.yaml": schema, **schema.get("$defs", {})}
    for name, group in sorted(groups.items(), key=lambda item: (item[0] != "config.yaml", item[0])):
        fields = group.get("properties", {})
        if not fields:
            continue
        lines += ["", f"## {name}", ""]
        if group.get("description"):
            lines += [_cell(group["description"]), ""]
        lines += ["| setting | values | default | meaning |", "|---|---|---|---|"]
        for key, field in fields.items():
            cells = (_cell(_kind(field)), _cell(_default(field)), _cell(field.get("description", "")))
            lines.append(f"| `{key}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and the reports of benchmarks."""
    for name, text in (("commands", commands()), ("settings", settings())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for report in sorted(REPORTS.glob("*.md")):
        files.append(File.generated(config, f"reports/{report.name}", content=report.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to benchmark reports to their pages; links to other files of the repository become plain text."""
    up = "../" * page.file.src_uri.count("/")
    return OUTSIDE.sub(r"\1", REPORT.sub(rf"]({up}reports/\1\2)", markdown))
