"""Which earlier results an IOMMU may go on giving, until the right invalidation; `iotlb.CacheModel` is the way in."""
