"""The annotated videos without a file, as `check` lists them in its table.

Only this list is read, and not with `tad.annotations.table`: an edit of that module must not cause features to be
extracted again.
"""

from pathlib import Path

from tad.core.errors import TadError
from tad.core.files import read_json
from tad.provenance.stamps import expect


def missing_videos(annotations: Path, *, dataset: str) -> dict[str, str]:
    """Return video id → cause of each annotated video without a file, sorted by id.

    Args:
        annotations: table written by check.
        dataset: the dataset that it has to belong to.

    Raises:
        TadError: the file is not a table written by check for this dataset.
    """
    expect(annotations, stage="check", dataset=dataset)
    found = read_json(annotations).get("missing")
    if not isinstance(found, dict):
        raise TadError(f"{annotations}: has no list of missing videos; remove it and run check again")
    return {str(video_id): str(cause) for video_id, cause in sorted(found.items())}
