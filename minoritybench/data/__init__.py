"""Image sources: ordered, id-stable; decode errors become records, not crashes."""
