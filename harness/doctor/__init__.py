"""Looks at what this host has for the main job."""
