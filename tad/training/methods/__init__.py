"""Training methods: distillation, pseudo-labels, pretext task and video classifier."""
