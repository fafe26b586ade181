"""A companion to three papers on what CLIP knows: data, models, methods and reports."""
