"""Models that also know how sure they are."""
