"""Tables, plots and one page, made from run folders alone."""
