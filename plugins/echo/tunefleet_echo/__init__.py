"""A deterministic fake backend that obeys the whole contract."""
