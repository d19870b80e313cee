"""Machines run by QEMU."""
