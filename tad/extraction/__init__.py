"""Feature extraction: clips, batches, and the engines that compute them."""
