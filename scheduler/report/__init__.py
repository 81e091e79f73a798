"""Capacity reports: cells, plans, curves and answers as a page, Markdown, CSV and JSON."""
