"""A shop that does not exist, with a known truth, and a project that forecasts it."""
