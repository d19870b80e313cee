"""The targets, one module for each kind of IOMMU."""
