"""Temporal adapters in a frozen video transformer (AdaTAD)."""
