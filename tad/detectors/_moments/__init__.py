"""Spotting of moments: the temporal network, its targets and losses, shared by the detectors on features and frames."""
