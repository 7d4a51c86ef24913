"""Who used how much: records, journals and their states."""
