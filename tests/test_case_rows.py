"""Every kind of input that once went wrong has a test, and every planted fault fits the code."""

import tomllib
from pathlib import Path

import planted_faults

TESTS = Path(__file__).parent
ROWS: dict[str, dict[str, list[str]]] = tomllib.loads((TESTS / "cases.toml").read_text(encoding="utf-8"))
IN_SENTENCES = {("evaluate", "ties"), ("tools", "exports"), ("video", "drift")}  # below or beside the tables


def exists(node: str) -> bool:
    """Return whether a test file, or a function in it, exists."""
    file, _, function = node.partition("::")
    path = TESTS / file
    if not path.is_file():
        return False
    return not function or f"\ndef {function.partition('[')[0]}(" in path.read_text(encoding="utf-8")


def rows_of(text: str) -> set[tuple[str, str]]:
    """Return (section, first cell) of all rows in the tables of a document."""
    section, rows = "", set()
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:].partition("/")[0]
        elif line.startswith("| ") and not line.startswith("| case |"):
            rows.add((section, line.split(" | ")[0].removeprefix("| ")))
    return rows


def test_every_row_names_tests_that_exist() -> None:
    for section, rows in ROWS.items():
        for row, nodes in rows.items():
            assert nodes, (section, row)
            assert [node for node in nodes if not exists(node)] == [], (section, row)


def test_every_row_of_the_cases_has_a_test(shared: Path) -> None:
    wanted = rows_of((shared / "cases/README.md").read_text(encoding="utf-8")) | IN_SENTENCES
    assert {(section, row) for section, rows in ROWS.items() for row in rows} == wanted


def test_every_planted_fault_fits_the_code_and_names_tests_that_exist() -> None:
    for fault in planted_faults.read_faults():
        text = (planted_faults.ROOT / fault.file).read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, f"{fault.file}: {fault.name}"
        assert fault.old != fault.new, fault.name
        assert [node for node in fault.tests if not exists(node.removeprefix("tests/"))] == [], fault.name


def test_the_rows_of_correctness_name_tests_that_exist() -> None:
    text = (planted_faults.ROOT / "docs/correctness.md").read_text(encoding="utf-8")
    named = [cell for line in text.splitlines() if line.startswith("| ") for cell in line.split("`")[1::2]]
    files = [cell for cell in named if cell.endswith(".py") and "test_" in cell]
    assert len(files) > 50
    assert [file for file in files if not exists(file)] == []
