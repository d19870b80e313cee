"""Builders of the tables that the VT-d engine walks: its mirror image."""
