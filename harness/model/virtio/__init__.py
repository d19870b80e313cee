"""What virtio devices have in common: split virtqueues and the PCI transport (Virtual I/O Device specification 1.3)."""
