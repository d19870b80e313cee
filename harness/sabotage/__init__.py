"""Machines that are broken on purpose, to see that the cases notice."""
