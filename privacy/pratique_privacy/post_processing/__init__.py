"""From noised sums to a candidate table: the coordinator does it, and every site repeats it.

Post-processing of what was paid for: nothing here touches a record or costs privacy.
"""
