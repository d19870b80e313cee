"""Looks from inside the guest: SSH, console, agent."""
