"""A companion to three papers on what CLIP knows: data, models, methods and reports."""

import sys

# What reads notebooks would load a grammar of web addresses: longer than all the rest, and of no use here
sys.modules.setdefault("rfc3987_syntax", None)
