"""What the Open Bandit sample is known to hold (methods/ope.md, 18b): for tests and for claims."""

from __future__ import annotations

CAMPAIGNS = ("all", "men", "women")

# logger, campaign: mean reward with its Wilson interval
ON_POLICY = {
    ("random", "all"): (0.0038, 0.00277, 0.00521),
    ("random", "men"): (0.0046, 0.00345, 0.00613),
    ("random", "women"): (0.0046, 0.00345, 0.00613),
    ("bts", "all"): (0.0042, 0.00311, 0.00567),
    ("bts", "men"): (0.0069, 0.00546, 0.00872),
    ("bts", "women"): (0.0046, 0.00345, 0.00613),
}

# logger, campaign: SNIPS, its se; DR, its se; effective size of the weighted rewards
NUMBERS = {
    ("random", "all"): (0.00479, 0.0022, 0.00476, 0.0021, 4.8),
    ("random", "men"): (0.00461, 0.0012, 0.00465, 0.0012, 14.7),
    ("random", "women"): (0.00680, 0.0019, 0.00691, 0.0019, 13.1),
    ("bts", "all"): (0.00233, 0.0009, 0.00262, 0.0009, 7.3),
    ("bts", "men"): (0.00319, 0.0008, 0.00316, 0.0008, 15.1),
    ("bts", "women"): (0.00237, 0.0021, -0.0029, 0.0114, 3.3),
}

# DR depends on which rows share a fold: its digits agree within the spread over 20 seeds, and those
# of bts/women, which one row of weight 21,739 decides, within these limits of value and se
SPREAD, SPREAD_SE = 0.00026, 0.00011
WOMEN = ((-0.006, 0.003), (0.006, 0.014))
