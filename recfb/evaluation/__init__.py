"""The one-pass engine behind `evaluate`."""
