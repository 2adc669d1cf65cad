"""``pratique evaluate``: fidelity and utility of a synthetic table against real ones."""
