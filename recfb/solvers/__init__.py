"""Scorers fitted in closed form or by a kernel of their own."""
