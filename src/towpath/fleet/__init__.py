"""The fleet: who owns which model, who calls it, and whether it is worth it."""

from towpath.fleet.callers import CallerRow, callers
from towpath.fleet.rows import FleetRow, Member, rows

__all__ = ["CallerRow", "FleetRow", "Member", "callers", "rows"]
