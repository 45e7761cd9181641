"""Build the package. A wheel contains the files of the workflow beside the code, where `tad run` finds them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# The same names as in MANIFEST.in, which adds them to source archives.
WORKFLOW = ("Snakefile", "rules", "profiles", "zoo", "envs", "workflow_scripts")


class WithWorkflow(build_py):
    """Copy the workflow into `tad/workflow/bundle/`; an editable installation uses the checkout (`tad.core.bundle`)."""

    def run(self) -> None:
        """Build the modules, then copy the workflow."""
        super().run()
        if self.editable_mode:
            return
        bundle = Path(self.build_lib) / "tad" / "workflow" / "bundle"
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir(parents=True)
        root = Path(__file__).parent
        for name in WORKFLOW:
            if (root / name).is_dir():
                shutil.copytree(root / name, bundle / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(root / name, bundle / name)


setup(cmdclass={"build_py": WithWorkflow})
