"""Arithmetic without a world: arrays in, numbers out, chance from a generator that is handed in."""
