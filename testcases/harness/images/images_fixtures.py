"""What the tests of guest images are made from: packages and kernels, fetched once."""

from __future__ import annotations

import pytest

from harness.artifacts.cache import Cache
from harness.artifacts.kernel import Kernel, find_kernel
from harness.artifacts.packages import Tree
from harness.defaults import defaults
from harness.images.build import fetch_userland
from harness.images.recipe import Recipe
from harness.spec import Arch


@pytest.fixture(scope="session")
def tree() -> Tree:
    """The packages of the guest image."""
    return fetch_userland(Recipe.load(), Cache(), defaults().suite, Arch.AMD64)


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """A kernel with a virtio-iommu driver."""
    return find_kernel("trixie", "amd64", Cache())


@pytest.fixture(scope="session")
def old_kernel() -> Kernel:
    """A kernel without one."""
    return find_kernel("bookworm", "amd64", Cache())
