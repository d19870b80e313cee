"""Builds guest images from the recipes in guest_images/."""
