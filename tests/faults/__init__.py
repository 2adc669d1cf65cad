"""Faults made for real, in network namespaces: one host a party."""
