"""Stride scheduling: users who wait are served in proportion to their weights.

Each user has a *pass*, and the lowest is served first. The virtual time is the highest pass that
was served. Whoever is served, or joins the line for the first time, gets the virtual time and one
*stride* more, which is inversely proportional to the weight. So nobody gains by being away. Among
equal passes the oldest turn is first: with equal weights, passes grow with the turns, and the order
is that of the turns alone.

While two users wait, the numbers of their jobs that are served, divided by their weights, differ by
at most one job of each together; if they joined together, by at most one job of either.

Source: Waldspurger and Weihl, Stride Scheduling (MIT/LCS/TM-528, 1995). All numbers are integers. A
stride is rounded down, by less than one part in 10**12.
"""

from typing import Final

from domain.language.limits import WEIGHT_DEFAULT

PASS_BYTES: Final = 16
ORDER_BYTES: Final = 24
_STRIDE_MAX: Final = 10**17  # of a weight of one hundredth
_POSITION_BITS: Final = 64


def next_pass(virtual_time: int, weight: int | None) -> int:
    """Return the pass of a user who was just served or joined; `weight` is in hundredths."""
    return virtual_time + _STRIDE_MAX // (WEIGHT_DEFAULT if weight is None else weight)


def order_of(pass_: int, turn: int) -> int:
    """Return the sort key of a user in line: by pass, then by turn, which is unique."""
    return pass_ << _POSITION_BITS | turn
