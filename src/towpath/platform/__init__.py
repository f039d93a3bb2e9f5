"""Where settings, stores and rooms meet; nothing else joins them."""

from towpath.platform.opened import Platform

__all__ = ["Platform"]
