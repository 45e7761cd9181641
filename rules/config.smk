# The configuration files are parsed strictly before Snakemake reads them: errors give file and line, and duplicate rows
# are rejected. The parsed values are cached, because `include` is relative to the file that contains it.
import gc
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Snakemake's imported modules stay until the process ends. The garbage collector need not traverse them repeatedly,
# which would take a tenth of the planning time.
gc.freeze()
gc.set_threshold(50_000, 20, 20)

sys.path.insert(0, workflow.basedir)

from tad.core.errors import TadError
from tad.settings.include import written_in

config_files = [Path("config.yaml")] if Path("config.yaml").is_file() else []
config_files += [Path(path) for path in workflow.overwrite_configfiles]
try:
    written_in(config_files)
except TadError as error:
    raise WorkflowError(str(error))
