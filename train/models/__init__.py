"""Captioning models in PyTorch: small parts (attention, blocks, encoders, decoders) composed by a recipe."""
