"""Leases machines for hours, does things with them and to them, and counts what was told wrong and what was left."""
