"""The CUDA twin."""
