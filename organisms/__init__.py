"""Tiny models that ship with the package, each a folder in Hugging Face form, and the scripts that made them."""
