"""Contract suites for those who write an engine of their own: subclass one, give the fixture, run pytest."""

from towpath.testing.online_store import OnlineStoreContract
from towpath.testing.warehouse import WarehouseContract

__all__ = ["OnlineStoreContract", "WarehouseContract"]
