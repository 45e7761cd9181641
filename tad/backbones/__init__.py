"""Backbones (clip encoders): one module and one YAML each, looked up by name (see `tad.settings.plugins`)."""
