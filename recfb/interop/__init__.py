"""Adapters to other libraries; nothing imports them."""
