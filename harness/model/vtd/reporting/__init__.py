"""What VT-d hardware tells software: faults, page requests, and the events that announce them (VT-d 7)."""
