"""Archive map.json files next to the benchmark reports and write the table of all archived scores to docs/results.md.

An archived score is reproducible: it records the command (which must agree with the row of the run), the commit of the
code, the versions of the libraries, and the identity, the settings and the fingerprints of the code.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tad.core.errors import TadError
from tad.core.files import publish, read_json, write_json
from tad.provenance import fingerprint
from tad.provenance.stamps import read_stamp
from tad.settings.config import Config
from tad.table import render
from tad.table.scores import Score, read_score

ROOT = Path(__file__).parents[1]
KEPT = Path("benchmarks/reports/results")
BEGIN = "<!-- results: made by `make readme-table` from the files in benchmarks/reports/results -->"
END = "<!-- /results -->"
ALSO = ("per_seed", "training", "hashes")  # not shown in any table, but they describe how the numbers were obtained


def _model(path: Path) -> Path | None:
    """Return the model behind a map.json: next to it, or in the folder of its first seed; None if it is gone."""
    models = (path.with_name("model.safetensors"), path.parent / "seed-0" / "model.safetensors")
    return next((model for model in models if model.is_file()), None)


def command_of(score: Score, config: Config) -> str:
    """Return the command that produces a score, checked against the row of the run.

    Raises:
        TadError: the run has no row, or one with another dataset, other features or another detector.
    """
    if score.run not in config.file.runs:
        raise TadError(f"{config.source}: no run is called '{score.run}'; add its row to zoo/studies.yaml first")
    row = config.run(score.run)
    ours = (row.dataset, row.features, row.detector if isinstance(row.detector, str) else row.detector["name"])
    theirs = (score.dataset, score.features, score.detector)
    if ours != theirs:
        where = config.where("runs", score.run)
        raise TadError(f"{where}: is now {', '.join(ours)}, and the score is of {', '.join(theirs)}; run it again")
    changes = {"seeds": len(score.seeds) or 1, "seed": score.seeds[0] if score.seeds else score.seed}
    apart = ", ".join(f"{key}: {value}" for key, value in changes.items() if value != getattr(row, key))
    command = f"snakemake --cores all results/{score.run}/map.json"
    return f"{command} --config 'runs={{{score.run}: {{{apart}}}}}'" if apart else command


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def commit_of(made: dict[str, Any]) -> str:
    """Return the commit of this checkout if its code produced the artefact; otherwise nothing, as it is unknown."""
    if fingerprint.code(made["stage"], made["spec"]) != made["code"] or _git("status", "--porcelain", "--", "tad"):
        return ""
    return _git("rev-parse", "HEAD")


def provenance(path: Path, score: Score, config: Config) -> dict[str, Any]:
    """Return the provenance of a map.json: command, commit, identity, versions, and the settings of its training.

    Raises:
        TadError: a file without a stamp, or a run whose row does not make it.
    """
    made, model = read_stamp(path), _model(path)
    trained = read_stamp(model) if model else None
    commits = {commit_of(one) for one in (made, trained) if one is not None}
    commit = commits.pop() if len(commits) == 1 else ""
    if not commit:
        sys.stderr.write(f"warning: {path}: no commit is kept, as the code has changed since or is not committed\n")
    return {
        "command": command_of(score, config),
        "commit": commit,
        "identity": made["identity"],
        "versions": {"tad": made["tad"], **(trained or made)["versions"]},
        "spec": {"train": trained["spec"]} if trained else {},
    }


def keep(path: Path, folder: Path, config: Config) -> Path:
    """Write the values of a map.json that the table shows, with their provenance, as `<run>.json` into `folder`.

    Raises:
        TadError: not a map.json, or one that no command makes.
    """
    score, document = read_score(path), read_json(path)
    facts: dict[str, Any] = {key: document[key] for key in (*Score.model_fields, *ALSO) if key in document}
    facts["protocol"] = score.protocol.model_dump()
    facts["provenance"] = provenance(path, score, config)
    settings = facts["provenance"]["spec"].get("train", {}).get("detector", {}).get("settings", {})
    facts.setdefault("face", settings.get("face", ""))
    return write_json(folder / f"{score.run.replace('/', '-')}.json", facts)


def block(folder: Path) -> str:
    """Return the lines of docs/results.md between the markers.

    Raises:
        TadError: nothing is kept.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise TadError(
            f"{folder}: no score is kept; name map.json files: make readme-table SCORES=results/<run>/map.json"
        )
    return f"{BEGIN}\n{render(paths)}{END}\n"


def replaced(text: str, block: str, where: Path) -> str:
    """Return `text` with the block between its markers replaced.

    Raises:
        TadError: the markers are not there exactly once.
    """
    marks = [line for line in text.splitlines() if line.startswith("<!-- results") or line == END]
    if len(marks) != 2 or marks[1] != END:
        raise TadError(f"{where}: needs one line '<!-- results … -->' and one '{END}' after it")
    before, _, rest = text.partition(marks[0] + "\n")
    return before + block + rest.partition(END + "\n")[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Archive the given scores and write docs/results.md. On errors, return 1 and print one line to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, nargs="*", help="map.json of runs to keep; none: those that are kept")
    parser.add_argument("--config", type=Path, default=ROOT / "config.yaml", help="where the rows of these runs are")
    parser.add_argument("--kept", type=Path, default=ROOT / KEPT)
    parser.add_argument("--readme", type=Path, default=ROOT / "docs" / "results.md")
    a = parser.parse_args(argv)
    try:
        if a.scores:
            config = Config.read(a.config)
            for path in a.scores:
                keep(path, a.kept, config)
        text = replaced(a.readme.read_text(encoding="utf-8"), block(a.kept), a.readme)
    except TadError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    with publish(a.readme) as partial:
        partial.write_text(text, encoding="utf-8")
    sys.stdout.write(block(a.kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
