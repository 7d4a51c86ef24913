"""From a YAML file to a checked config, and what there is to choose from."""
