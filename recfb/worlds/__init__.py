"""Population dynamics, and the wrappers that hide feedback."""
