"""Versions, who is champion, and who owns a name: append-only objects, signed."""
