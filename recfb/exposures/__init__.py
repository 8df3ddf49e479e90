"""P(a pair's feedback is observed)."""
