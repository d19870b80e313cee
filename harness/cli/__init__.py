"""The viommu command, a thin layer on the library."""
