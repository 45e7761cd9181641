"""SPOT: network that predicts a class and a mask for each snippet, losses and decoding."""
