"""Finds or fetches QEMU builds, kernels and packages, into one content-addressed cache."""
