"""Is a component right? Named checks for ours and for yours.

`check(thing, log)` runs every check that fits; `checks(thing)` gives them by name, for
`pytest.mark.parametrize`. A failed check is an AssertionError that begins with the check's name.
"""

from recfb.testing.checks import check, checks, example_log
from recfb.testing.estimators import check_estimator

__all__ = ["check", "check_estimator", "checks", "example_log"]
