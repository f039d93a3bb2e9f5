"""Where the tables are: one connection to the engine that reads them, and point-in-time SQL for it."""

from towpath.warehouse.engine import Engine
from towpath.warehouse.files import Warehouse, open_warehouse

__all__ = ["Engine", "Warehouse", "open_warehouse"]
