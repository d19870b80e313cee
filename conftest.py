"""Settings of Hypothesis and of signals; options and fixtures are in harness/plugin.py, which pyproject.toml names."""

import signal

try:
    from hypothesis import settings
except ImportError:  # only the tests of the harness itself need it, not the cases
    pass
else:
    # On a shared host no single example is too slow; how fast the harness is `viommu bench` says.
    settings.register_profile("shared-host", settings.default, deadline=None)
    settings.load_profile("shared-host")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and all that a test starts, and interrupts, would be as deaf.
    signal.signal(signal.SIGINT, signal.default_int_handler)
