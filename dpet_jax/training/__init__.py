"""Training and scoring on the device: import what you need from its submodule."""
