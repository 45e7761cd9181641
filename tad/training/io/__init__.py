"""Model files: training states, models, published checkpoints and initial weights."""
