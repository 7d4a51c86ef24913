"""How a search chooses its next setting, a class each."""
