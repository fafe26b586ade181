"""Mutual knowledge: what an image and a class name share in CLIP (Sammani & Deligiannis, NeurIPS 2024)."""
