"""The one exception that speaks to the user."""


class TadError(ValueError):
    """Something the user can fix.

    The message is one line and names the file (or setting), the offending value and the remedy; `tad` prints it
    without a traceback and exits with status 1. Anything else that is raised is a defect of ours and keeps its
    traceback.
    """
