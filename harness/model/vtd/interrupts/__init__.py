"""VT-d interrupt remapping: what is read, what becomes of a message, and the builder of its tables (VT-d chapter 5)."""
