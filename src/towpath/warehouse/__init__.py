"""Where the tables are: one connection to the engine that reads them, and point-in-time SQL for it."""

from towpath.warehouse.engine import Engine
from towpath.warehouse.files import FileWarehouse, LaysOut
from towpath.warehouse.landed import TakesLanded
from towpath.warehouse.point_in_time import AsOf, Facts, newest_sql, training_set_sql
from towpath.warehouse.port import Warehouse, open_warehouse
from towpath.warehouse.snapshots import Snapshots, TableState
from towpath.warehouse.written import TakesTables

__all__ = [
    "AsOf",
    "Engine",
    "Facts",
    "FileWarehouse",
    "LaysOut",
    "Snapshots",
    "TableState",
    "TakesLanded",
    "TakesTables",
    "Warehouse",
    "newest_sql",
    "open_warehouse",
    "training_set_sql",
]
