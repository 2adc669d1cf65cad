"""Sums over sites of which nobody sees a summand; ``privacy/README.md`` says against whom.

    roster.py    who takes part in a run: mask keys signed by the sites' identities
    masks.py     secrets of pairs of sites, seeds of one sum, and what they expand to
    shares.py    self-mask seeds cut in shares and sealed for each peer
    party.py     a site: mask one vector, agree on the survivors, reveal once
    opening.py   the coordinator: unmask the sum of the survivors, and nothing else

It sums integers modulo 2ᵏ and knows nothing of training, of tables or of Flower.
"""
