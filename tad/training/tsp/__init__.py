"""TSP: pre-training of a clip encoder on the train split."""
