"""The `tad` command line, and the commands that are not stages."""
