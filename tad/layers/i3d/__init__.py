"""Layers of I3D that backbones and detectors on frames share."""
