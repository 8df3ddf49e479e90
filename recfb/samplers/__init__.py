"""Which rows are learned from, and with which negatives."""
