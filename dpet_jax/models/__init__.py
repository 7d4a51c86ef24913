"""Networks: import what you need from its submodule."""
