"""Benches, one file each: layout, items, columns, aggregation, published rows."""
