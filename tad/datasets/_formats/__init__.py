"""Files of annotation tools: one module per tool with `read`, and `write` where the tool imports the format."""
