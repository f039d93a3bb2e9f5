"""Where state lives: objects, the catalog, the online store."""
