"""Settings of Hypothesis; options, fixtures and the record are in harness/plugin.py, which pyproject.toml names."""

try:
    from hypothesis import settings
except ImportError:  # only the tests of the harness itself need it, not the cases
    pass
else:
    # On a shared host no single example is too slow; how fast the harness is `viommu bench` says.
    settings.register_profile("shared-host", settings.default, deadline=None)
    settings.load_profile("shared-host")
