"""Every command in README.md and docs parses, names what exists, and is executed by a test or listed with a reason."""

import argparse
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import docs_commands as lists
import pytest
import video_tools as vt
from test_label_formats import xlsx

from tad.commands.cli import build_parser, main
from tad.commands.command_table import COMMANDS
from tad.settings.config import Config
from tad.settings.stage_table import STAGES

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^ *```([\w-]*)\n(.*?)^ *```", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
PLACEHOLDER = r"<\w+>|…|\[|\b[A-Z]{3,}\b"
PROGRAMS = ("tad", "snakemake", "make", "pip", "python", "git", "ffmpeg", "ffprobe", "source", "eval", "pytest")


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it.

    Attributes:
        page: the page, relative to the repository.
        text: the command on one line, without comments.
        block: whether it stands in a block of code, where it must be complete.
    """

    page: str
    text: str
    block: bool

    @property
    def words(self) -> list[str]:
        """The words; marks of optional and repeated arguments are left out."""
        return [word for word in shlex.split(re.sub(r" ?…|[\[\]](?=[A-Z …]|$)", "", self.text)) if word]


def commands_of(text: str, page: str) -> list[Shown]:
    """The commands of a page: each line of a block of commands, and inline code that starts with a program."""
    found = []
    for language, body in FENCE.findall(text):
        lines = body.replace("\\\n", " ").splitlines()
        if language == "sh":
            for line in lines:
                words = shlex.split(line, comments=True)
                found += [
                    Shown(page, part, True) for part in shlex.join(words).replace("'&&'", "&&").split(" && ") if part
                ]
        elif language == "":
            wrong = [line for line in lines if re.match(rf"({'|'.join(PROGRAMS)}) \S", line.removeprefix("$ "))]
            assert not wrong, f"{page}: the block with '{wrong[0]}' does not begin with ```sh"
    for code in INLINE.findall(FENCE.sub("", text)):
        text = " ".join(code.split()).removeprefix(".venv/bin/")
        is_message = re.match(r"tad (<\w+>|[\w-]+):", text)
        if text.partition(" ")[0] in PROGRAMS and " " in text and not is_message:
            found.append(Shown(page, text, False))
    return found


def all_commands() -> list[Shown]:
    found = [one for page in PAGES for one in commands_of(page.read_text(), str(page.relative_to(ROOT)))]
    return list(dict.fromkeys(found))


SHOWN = all_commands()


@cache
def snakemake_options() -> dict[str, bool]:
    """The options of Snakemake, and whether each takes a value."""
    from snakemake.cli import get_argument_parser

    return {name: action.nargs != 0 for action in get_argument_parser()._actions for name in action.option_strings}


@cache
def config() -> Config:
    return Config.read(ROOT / "config.yaml")


def check_tad(words: list[str], *, complete: bool) -> None:
    """Check a `tad` command against the table of commands.

    Raises:
        ValueError: a command, action, option or choice does not exist, or a complete command lacks arguments.
    """
    if words[0] in COMMANDS and COMMANDS[words[0]].passes:
        check_snakemake(words[1:])
        return
    if words[0] not in {**COMMANDS, **STAGES}:
        raise ValueError(f"tad has no command '{words[0]}'")
    parser = build_parser(words[0])

    def refuse(message: str) -> None:
        raise ValueError(message)

    for one in parsers(parser):
        one.error = refuse  # type: ignore[method-assign, assignment]
        one.exit_on_error = False
    if words[-1] == "--help":
        words = words[:-1]
    try:
        parser.parse_args(words)
    except (ValueError, argparse.ArgumentError) as error:
        lacks = re.search(r"are required|expected (one|at least one) argument", str(error))
        if complete or not lacks:
            raise ValueError(str(error)) from error
        known = {name for own in parsers(parser) for action in own._actions for name in action.option_strings}
        unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
        if unknown:
            raise ValueError(f"tad {words[0]} has no option {unknown[0]}") from error


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and all parsers of its subcommands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [own for child in action.choices.values() for own in parsers(child)]
    return found


def check_snakemake(words: list[str]) -> None:
    """Check options and targets of a `snakemake` or `tad run` command.

    Raises:
        ValueError: an option does not exist, or no rule writes a target.
    """
    options, values = snakemake_options(), False
    for word in words:
        if word.startswith("-"):
            if word.partition("=")[0] not in options:
                raise ValueError(f"snakemake has no option {word}")
            values = options[word.partition("=")[0]] and "=" not in word
        elif values:
            values = False  # the value of the option before
        elif re.match(r"<?[\w/.-]+>?$", word):
            check_target(word)
        elif "=" not in word:
            raise ValueError(f"neither an option nor a target: {word}")


def check_target(word: str) -> None:
    """Check that a target is a run, or the file of a stage for a run or data set that exists or is an example.

    Raises:
        ValueError: it is neither.
    """
    if re.fullmatch(r"<\w+>|[A-Z]+", word) or word in lists.EXAMPLES or word in config().file.runs:
        return
    if word in lists.OTHER_TARGETS:
        return
    rows = config().file
    exists: dict[str, Collection[str]] = {"run": rows.runs, "dataset": rows.datasets, "features": rows.features}
    for stage in STAGES.values():
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(f"results/{stage.output}"))
        if match := re.fullmatch(pattern, word):
            for kind, name in match.groupdict().items():
                if kind in exists and name not in exists[kind] and name not in lists.EXAMPLES:
                    raise ValueError(f"{word}: no {kind} is called {name}")
            return
    raise ValueError(f"no stage writes {word}")


def check(one: Shown) -> None:
    """Check a command of any program.

    Raises:
        ValueError: with what is wrong.
    """
    program, *words = one.words
    if not words:
        return
    if program.endswith("tad"):
        check_tad(words, complete=one.block)
    elif program.endswith("snakemake"):
        check_snakemake(words)
    elif program == "make":
        if not re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.M):
            raise ValueError(f"the Makefile has no target {words[0]}")
    elif program in ("python", "pytest") and not (ROOT / words[0]).exists():
        raise ValueError(f"{words[0]} does not exist")


def exists_here(one: Shown) -> bool:
    """Whether a command works without following a section of docs/extending.md, which test_extending.py does."""
    return one.page != "docs/extending.md" or one.text not in lists.OF_EXTENSIONS


@pytest.mark.parametrize("one", list(filter(exists_here, SHOWN)), ids=lambda one: f"{one.page}: {one.text}")
def test_a_command_exists_as_it_is_shown(one: Shown) -> None:
    check(one)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tad accept", "no command 'accept'"),
        ("tad weights get i3d", "invalid choice"),
        ("tad apply demo --too json", "has no option --too|unrecognized"),
        ("tad evaluate x --on-invalid maybe", "invalid choice"),
        ("tad run --untill train", "no option --untill"),
        ("snakemake --cores 2 results/demo/maps.json", "no stage writes"),
        ("snakemake results/nothing/map.json", "no run is called nothing"),
        ("make everything", "no target everything"),
        ("python tests/none.py", "does not exist"),
    ],
)
def test_what_does_not_exist_is_found(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(Shown("page", text, False))


def test_a_block_is_complete() -> None:
    with pytest.raises(ValueError, match="required"):
        check(Shown("page", "tad apply demo video.mp4", True))
    (one,) = commands_of("```sh\ntad why demo   # comment\n```\n", "page")
    assert (one.text, one.block) == ("tad why demo", True)
    with pytest.raises(AssertionError, match="does not begin"):
        commands_of("```\ntad why demo\n```\n", "page")


def is_complete(one: Shown) -> bool:
    """Whether a command can be typed as it is: a mention such as `tad annotate` names it only."""
    words = one.words
    if words[0] in ("tad", ".venv/bin/tad") and not one.block and len(words) > 1:
        if words[1] == "run":
            return not re.search(PLACEHOLDER, one.text)
        try:
            check_tad(words[1:], complete=True)
        except ValueError:
            return one.text in lists.OF_EXTENSIONS
        return not re.search(PLACEHOLDER, one.text)
    return one.block or not re.search(PLACEHOLDER, one.text)


def test_every_complete_command_is_executed_or_listed_with_a_reason() -> None:
    """The lists in docs_commands.py: neither a command without an entry, nor an entry without a command."""
    complete = {one.text for one in SHOWN if is_complete(one)}
    entries = [*lists.EXECUTED, *lists.OF_EXTENSIONS, *lists.EXECUTED_ELSEWHERE, *lists.NOT_EXECUTED]
    assert len(entries) == len(set(entries)), "a command has two entries"
    listed = {text for text in complete if any(text == entry or fnmatch(text, entry) for entry in entries)}
    assert sorted(complete - listed) == [], "commands without an entry in tests/docs_commands.py"
    every = {one.text for one in SHOWN}
    unused = [entry for entry in entries if not any(text == entry or fnmatch(text, entry) for text in every)]
    assert unused == [], "entries without a command"
    for place in {**lists.OF_EXTENSIONS, **lists.EXECUTED_ELSEWHERE}.values():
        path, _, name = place.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), place
    assert all(len(reason.split()) > 2 for reason in lists.NOT_EXECUTED.values())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages describe it: videos, and labels as CSV file and spreadsheet."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "videos").mkdir()
    (folder / "clips").symlink_to("videos")
    rows: list[list[str | float]] = [["video", "start", "end", "label"]]
    for k in range(4):
        vt.encode(folder / "videos" / f"clip_{k}.mp4", 50, rate=25, width=32, height=32)
        rows.append([f"clip_{k}", 0.25, 1.0 + k / 4, ("jump", "run")[k % 2]])
    (folder / "labels.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    xlsx(folder / "labels.xlsx", rows)
    return folder


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, marks=[pytest.mark.wide] * (place == "project")) for text, place in lists.EXECUTED.items()],
)
def test_a_cheap_command_runs(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """In the checkout for commands that only read, else in a folder of its own."""
    place = lists.EXECUTED[text]
    if place == "shared":
        shared = request.getfixturevalue("shared")
        for name, source in lists.SHARED.items():
            (tmp_path / name).symlink_to(next(shared.glob(source)))
    folder = {"checkout": ROOT, "project": tmp_path, "shared": tmp_path, "empty": tmp_path}[place]
    if place == "project":
        for source in request.getfixturevalue("project").iterdir():
            (tmp_path / source.name).symlink_to(source)
    monkeypatch.chdir(folder)
    assert main(shlex.split(text)[1:]) == 0
