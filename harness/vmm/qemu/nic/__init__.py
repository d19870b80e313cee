"""Network cards, driven by the host behind the guest's back: one small driver for each kind, behind one protocol."""
