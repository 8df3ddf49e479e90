"""s(u, i): what a recommender learns."""
