"""Pages that people look at: rendered on the server, readable on a phone, light and dark, usable by keyboard."""

from towpath.console.app import application, run

__all__ = ["application", "run"]
