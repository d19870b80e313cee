"""The harness: boots guests behind a virtual IOMMU and judges what they see against a reference model."""
