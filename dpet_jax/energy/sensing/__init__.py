"""From readings of a sensor to cumulative energy."""
