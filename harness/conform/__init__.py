"""Differential conformance: programs run on a QEMU without a guest and on the model beside it, and compared."""
