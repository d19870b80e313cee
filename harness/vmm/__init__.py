"""Starts and drives machines; one package for each VMM."""
