"""How a process becomes a service of a fleet on another machine, and what it keeps of that."""

from tunefleet_services.joining.join import join_fleet, usual_name
from tunefleet_services.joining.membership import Membership, find_membership, memberships
from tunefleet_services.joining.renewal import keep_renewed
from tunefleet_services.joining.way import Way, add_way, way_of

__all__ = [
    "Membership",
    "Way",
    "add_way",
    "find_membership",
    "join_fleet",
    "keep_renewed",
    "memberships",
    "usual_name",
    "way_of",
]
