"""Start the agent: `python3 /usr/lib/viommu/agent`."""

from loop import main

main()
