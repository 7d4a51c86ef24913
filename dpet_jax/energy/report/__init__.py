"""The energy report and its export formats."""
