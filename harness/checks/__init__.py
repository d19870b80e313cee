"""Compares what the model expects with what was observed; the only place that judges."""
