"""Monitors: SQL that returns failing rows, the incidents they open and close, and the messages about them."""

from towpath.monitors.alerts import Delivered, check_addresses, deliver
from towpath.monitors.check import BUILT_IN, Ask, Checked, Monitor, built_in, check
from towpath.monitors.incidents import Incident, incidents, record
from towpath.monitors.watched import Promise, Watched, measured, promises, register

__all__ = [
    "BUILT_IN",
    "Ask",
    "Checked",
    "Delivered",
    "Incident",
    "Monitor",
    "Promise",
    "Watched",
    "built_in",
    "check",
    "check_addresses",
    "deliver",
    "incidents",
    "measured",
    "promises",
    "record",
    "register",
]
