"""Context -> distribution over items."""
