# Types of what `tad/__init__.py` imports on first use.
from tad import nms as nms
from tad.api.detections import Detections as Detections
from tad.api.run import Run as Run
from tad.api.run import load as load
from tad.api.scores import evaluate as evaluate
from tad.metrics.columns import Columns as Columns

__version__: str
