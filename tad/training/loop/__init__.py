"""The training loop: epochs, gradients, optimisers, phases, data-parallel processes and selection of the epoch."""
