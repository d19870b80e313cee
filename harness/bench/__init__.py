"""Measures what the harness costs."""
