"""Speed and memory against peers: one run, both sides, ratios; results kept as JSON with the machine."""
