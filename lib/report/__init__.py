"""What a notebook shows and keeps: records, numbered tables, figures, intervals, published numbers."""
