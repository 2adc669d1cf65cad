"""Images of a study: what they are, where their public prior comes from, what is seen in them."""
