# config.yaml is read strictly before Snakemake reads it: errors name file and line, and no row is there twice.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from tad.errors import TadError
from tad.strict_yaml import read_yaml

if Path("config.yaml").is_file():
    try:
        read_yaml(Path("config.yaml"))
    except TadError as error:
        raise WorkflowError(str(error))
