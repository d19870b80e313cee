"""VT-d invalidation: descriptors, what they drop, the queue, and the registers before it (VT-d 6.5)."""
