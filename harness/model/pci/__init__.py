"""PCI topology in general: functions and bridges, requester ids, IOMMU groups, and who is behind which IOMMU."""
