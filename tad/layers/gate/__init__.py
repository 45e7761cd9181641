"""GAF's generative attention gate, which any detector can have."""
