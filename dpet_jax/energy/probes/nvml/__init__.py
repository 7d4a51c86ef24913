"""NVIDIA GPUs, measured through NVML."""
