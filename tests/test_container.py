"""Dockerfile and the Kubernetes manifest: what they copy exists, and the image holds what the package is built from."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
INSTRUCTIONS = [line.split(maxsplit=1) for line in LINES if line and not line.startswith("#")]


def copied() -> set[str]:
    """Return the names that the image copies from the checkout."""
    return {name for kind, rest in INSTRUCTIONS if kind == "COPY" for name in shlex.split(rest)[:-1]}


def test_instructions_are_those_of_docker() -> None:
    known = {"FROM", "ENV", "COPY", "RUN", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert {kind for kind, _ in INSTRUCTIONS} <= known
    assert INSTRUCTIONS[0][0] == "FROM"


def test_image_holds_all_that_a_wheel_is_built_from() -> None:
    if not (ROOT / "setup.py").is_file():
        pytest.skip("not a checkout")
    workflow = re.search(r"^WORKFLOW = \((.*)\)", (ROOT / "setup.py").read_text(), re.M)
    assert workflow
    needed = set(re.findall(r'"([^"]+)"', workflow[1]))
    assert needed | {"tad", "setup.py", "pyproject.toml", "requirements.txt", "requirements-extras.txt"} <= copied()
    assert all((ROOT / name).exists() for name in copied())


def test_build_context_has_what_is_copied() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert copied() == sent


def test_manifest_mounts_its_volumes_and_gives_gpus_as_limits() -> None:
    job = yaml.safe_load((ROOT / "profiles/kubernetes/job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["apiVersion"], job["kind"], pod["restartPolicy"]) == ("batch/v1", "Job", "Never")
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert "nvidia.com/gpu" in container["resources"]["limits"]
    assert container["workingDir"] == next(rest for kind, rest in INSTRUCTIONS if kind == "WORKDIR")
    assert all(isinstance(argument, str) for argument in container["args"])
