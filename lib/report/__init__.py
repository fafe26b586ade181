"""What a notebook shows and keeps: records, numbered tables, figures, intervals, published numbers."""

from lib.report import figures, published, record, statistics, tables
from lib.report.tables import glue, table

__all__ = ["figures", "glue", "published", "record", "statistics", "table", "tables"]
