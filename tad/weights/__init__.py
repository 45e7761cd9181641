"""Published weight files: their records, locations, downloads and checksums."""
