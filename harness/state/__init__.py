"""The state of an IOMMU as files: registers and memory of a machine that need not run any more."""

from harness.state.read import State, open_state

__all__ = ["State", "open_state"]
