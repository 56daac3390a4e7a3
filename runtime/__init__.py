"""What runs on a user's machine: numpy, onnxruntime, Pillow and tokenizers; never torch.

Import from the modules; this package imports nothing by itself, so that each command loads only what it
needs.
"""
