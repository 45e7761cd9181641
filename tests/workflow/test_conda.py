"""--sdm conda: a rule runs the Python of its environment. A stand-in for conda makes environments of one program."""

import json
import os
import sys
from pathlib import Path

import pytest
from scratch import Checkout

CONDA = """#!/bin/bash
case "$1" in
    --version) echo "conda 25.1.0" ;;
    info) echo '{INFO}' ;;
    config) echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    env) prefix="${{@: -1}}"; mkdir -p "$prefix/bin" "$prefix/conda-meta"; cp "{HERE}/python" "$prefix/bin/python" ;;
    clean) ;;
    *) exit 9 ;;
esac
"""
PYTHON = '#!/bin/bash\necho "$0" >> "{HERE}/used"\nexec "{SYSTEM}" "$@"\n'


def make_conda(folder: Path) -> None:
    """A `conda` in `folder`/bin whose environments hold a `python` that notes its use in `folder`/used."""
    info = json.dumps({"conda_prefix": str(folder), "platform": "linux-64"})
    files = {
        "bin/conda": CONDA.format(HERE=folder, INFO=info),
        "bin/activate": 'export PATH="$1/bin:$PATH"\n',
        "python": PYTHON.format(HERE=folder, SYSTEM=sys.executable),
    }
    (folder / "bin").mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def test_rules_run_in_their_environment(finished: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conda = tmp_path / "conda"
    make_conda(conda)
    monkeypatch.setenv("PATH", f"{conda}/bin{os.pathsep}{os.environ['PATH']}")
    checkout = finished.copy(tmp_path / "tad")
    (checkout.folder / "results/a/detections.json").unlink()
    done = checkout.run("snakemake", "--cores", "1", "--sdm", "conda", "--", "results/a/detections.json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    used = (conda / "used").read_text().split()
    assert used
    assert all(path.startswith(str(checkout.folder / ".snakemake/conda")) for path in used)
