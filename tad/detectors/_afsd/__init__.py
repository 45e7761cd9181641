"""AFSD: network with salient boundary features, losses and decoding."""
