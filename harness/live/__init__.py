"""A running machine with its guest, and the model fed from it: what a test case has in its hands."""
