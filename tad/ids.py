"""What a video may be called: one rule for annotations and for files, so that what one accepts the other does too."""

import re

USUAL = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,199}")  # nearly all ids: one look in place of seven


def unsafe(video_id: str) -> str:
    """Why this id cannot be used in file names and HDF5 groups; empty when it can. Spaces inside are fine."""
    if USUAL.fullmatch(video_id):
        return ""
    if not video_id:
        return "is empty"
    if "/" in video_id or "\\" in video_id:
        return "would name another folder"
    if video_id.startswith("."):
        return "begins with a dot, as hidden files do"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in video_id):
        return "holds a control character"
    if video_id != video_id.strip():
        return "begins or ends with a space"
    if len(video_id.encode("utf-8", "surrogatepass")) > 200:
        return "is longer than 200 bytes"
    try:
        video_id.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return ""
