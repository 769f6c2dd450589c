"""Integration windows: how far back each unit, and each brain region, listens."""
