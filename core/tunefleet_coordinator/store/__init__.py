"""Everything durable: SQLAlchemy Core tables on SQLite, one writer, group commit.

Start reading at `store.py` (the one class), then `write.py` (how a batch is isolated).
"""

from tunefleet_coordinator.store.conflict import Conflict, Dependent
from tunefleet_coordinator.store.datasets import DatasetRow
from tunefleet_coordinator.store.members import CertificateRow, JoinTokenRow
from tunefleet_coordinator.store.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page
from tunefleet_coordinator.store.store import Durable, Store
from tunefleet_coordinator.store.tokens import TokenRow

__all__ = [
    "DEFAULT_PAGE_SIZE",
    "MAX_PAGE_SIZE",
    "CertificateRow",
    "Conflict",
    "DatasetRow",
    "Dependent",
    "Durable",
    "JoinTokenRow",
    "Page",
    "Store",
    "TokenRow",
]
