"""What every test shares: property tests that say the same on every run.

One commit gives one answer. `TUNEFLEET_EXPLORE=1` lets hypothesis look at new examples each
time instead; what it finds becomes an `@example`.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("explore" if os.environ.get("TUNEFLEET_EXPLORE") else "repeatable")
