"""Detectors on the features of an encoder that learns with them through adapters."""
