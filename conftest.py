"""Nothing of its own: options, fixtures and the record are in harness/plugin.py, which pyproject.toml names."""
