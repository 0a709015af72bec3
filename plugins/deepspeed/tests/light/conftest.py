"""These tests need no library: they run beside the services too, where the plugin is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

for name in ("deepspeed", "trl"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / name))
