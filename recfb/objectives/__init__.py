"""Per-row training losses, debiased or not."""
