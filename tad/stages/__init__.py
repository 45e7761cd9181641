"""The stages: input paths and one spec in, one artefact out."""
