"""Machines that were booted once and are started from there: templates, and leases of them."""
