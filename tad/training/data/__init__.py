"""Training data: windows, batches, roles of videos, cached features, frames and their optical flow."""
