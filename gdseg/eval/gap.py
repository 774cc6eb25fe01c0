"""Gap closed: how far a student comes of the way from a network with few labels to one with all of them.

Called by train/budget_report.py and report/compare.py.
"""

LEAST_GAP = 0.005  # of a score 0..1: a smaller gap to all labels is noise, and no share of it is told


def gap_closed(score: float | None, base: float | None, ceiling: float | None) -> float | None:
    """(score - base) / (ceiling - base); None where one is missing or the gap is below `LEAST_GAP`."""
    if score is None or base is None or ceiling is None or ceiling - base < LEAST_GAP:
        return None
    return (score - base) / (ceiling - base)
