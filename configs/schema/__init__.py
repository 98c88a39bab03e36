"""What a config may say: a section a file; the loader, overrides, and the JSON Schema for editors."""
