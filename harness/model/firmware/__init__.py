"""The firmware's tables that say which IOMMU stands before which device: one module for each, `tables` for all.

Each has a parser from bytes and its mirror image, frozen dataclasses with the names of the specification, and a
meaning: `behind(tree, function)`, the same question for every table (`table`). What a platform's tables must state is
in `facts`; whether they do is for `harness.checks.firmware` to say.
"""
