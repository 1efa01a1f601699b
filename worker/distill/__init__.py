"""The distillation engine: plain PyTorch, usable alone (`python -m worker.distill`).

This package imports nothing on its own: `spec` and `events` must stay free of torch.
"""
