"""Safety heads beyond single scores: the shift of a set of requests, groups of heads, and what losing them does."""
