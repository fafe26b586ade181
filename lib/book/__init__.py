"""From executed notebooks and records to the book: pages, the ledger of claims, the status page."""
