"""Configuration: resolve the rows of config.yaml to the checked settings of each stage."""
