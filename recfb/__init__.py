"""recfb: fit, simulate and evaluate recommenders on biased feedback."""

__version__ = "0.1.0"
