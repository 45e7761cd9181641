"""Layers, losses and the contract that two or more detectors share."""
