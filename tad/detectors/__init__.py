"""Feature sequences → candidate segments, one module and one YAML per method."""
