"""Sensors: one probe for each component, which a meter asks in turn."""
