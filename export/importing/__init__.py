"""Captioners of Hugging Face transformers to bundles: one file for each family, one decoder for all of them.

`bundle` is the way from a checkpoint to a bundle, `registry` says which families there are, `proof` compares
what was made with transformers.
"""
