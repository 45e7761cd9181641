"""Recognise files that are given in place of text: compressed files, archives, binary formats."""

# First bytes of files that people give in place of text.
KINDS = {
    b"\x1f\x8b": "is compressed by gzip; unpack it (gunzip) and give the file in it",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; unpack it, or give it its own extension (.xlsx, .ods)",
    b"BZh": "is compressed by bzip2; unpack it and give the file in it",
    b"\xfd7zXZ\0": "is compressed by xz; unpack it and give the file in it",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it and give the file in it",
    b"\xd0\xcf\x11\xe0": "is an old Excel file; give it the extension .xls, or save it as CSV",
    b"\x89HDF\r\n\x1a\n": "is an HDF5 or MATLAB file; export its annotations as CSV or JSON",
    b"MATLAB 5.0": "is a MATLAB file; export its annotations as CSV or JSON",
    b"SQLite format 3": "is an SQLite database; export its table as CSV",
    b"\x80\x04\x95": "is a Python pickle, which could run code; write its rows as CSV or JSON",
    b"version https://git-lfs.github.com": "is a pointer of Git LFS, not the file itself; download it (git lfs pull)",
}  # fmt: skip


def other_kind(data: bytes) -> str:
    """Return what a file is that is no text, with a remedy; empty if its first bytes name no usual kind of file."""
    return next((what for start, what in KINDS.items() if data.startswith(start)), "")
