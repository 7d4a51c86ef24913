"""Sensors: each answers for one component; a meter asks them in turn."""
