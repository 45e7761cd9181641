"""Frames → features: clips, batches, and the engines that compute them."""
