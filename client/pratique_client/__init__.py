"""The daemon at a hospital: trains, audits and answers with noised numbers and codes only."""
