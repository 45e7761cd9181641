"""Functions for the Snakemake rules (paths, settings, code and content keys), and reasons why a stage would run."""
