"""Validation of video ids, for annotations and file names alike."""

import re
import unicodedata

# What counts as a video's file; annotations may call a video by its file's name.
VIDEO_EXTENSIONS = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mj2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg",
    ".mpe", ".m1v", ".m2v", ".vob", ".mod", ".ts", ".mts", ".m2ts", ".m2t", ".trp", ".tod", ".wmv", ".asf", ".wtv",
    ".flv", ".ogv", ".ogm", ".mxf", ".gxf", ".dv", ".nut", ".rm", ".rmvb", ".y4m", ".gif",
})  # fmt: skip
# What counts as an annotation file in a folder of them.
LABEL_EXTENSIONS = frozenset({
    ".json", ".csv", ".tsv", ".txt", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".eaf", ".srt", ".vtt", ".boris",
    ".nwb", ".xml",
})  # fmt: skip
# invisible, though Unicode counts them among the marks, letters and symbols: a joiner, fillers, variation selectors
BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(0xFE00 + k) for k in range(16)}
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4`", "'"))
USUAL = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,199}")  # a fast path for nearly all ids


def invisible(text: str) -> str:
    """Return the name of the first invisible character (zero-width spaces and joiners, direction marks, soft hyphens,
    fillers); empty if there is none. Two texts that differ in one look alike and are not equal."""
    if text.isascii():
        return ""
    for letter in text:
        if unicodedata.category(letter) == "Cf" or letter in BLANK:
            return f"U+{ord(letter):04X} {unicodedata.name(letter, 'without a name')}"
    return ""


def alike(text: str) -> str:
    """Return the same text for names that are only written differently.

    Ignored are case, kinds of letters (full width, ligatures), of hyphens, apostrophes and blanks; an underscore is a
    blank.
    """
    if text.isascii():
        return " ".join(text.casefold().replace("_", " ").split())
    kinds = {"Pd": "-", "Zs": " "}
    plain = "".join(kinds.get(unicodedata.category(x), x) for x in unicodedata.normalize("NFKC", text))
    return " ".join(plain.translate(APOSTROPHES).casefold().replace("_", " ").split())


def unsafe(video_id: str) -> str:
    """Return why an id cannot be used in file names and HDF5 groups, or "" if it can. Inner spaces are allowed."""
    if USUAL.fullmatch(video_id):
        return ""
    if not video_id:
        return "is empty"
    if "/" in video_id or "\\" in video_id:
        return "contains a path separator, which would name another folder"
    if video_id.startswith("."):
        return "starts with a dot, as hidden files do"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in video_id):
        return "contains a control character"
    if hidden := invisible(video_id):
        return f"contains an invisible character ({hidden})"
    if video_id != video_id.strip():
        return "starts or ends with a space"
    if len(video_id.encode("utf-8", "surrogatepass")) > 200:
        return "is longer than 200 bytes"
    try:
        video_id.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return ""
