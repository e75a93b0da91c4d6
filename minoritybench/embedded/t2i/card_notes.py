"""The part of the text-to-image card that people wrote."""

NOTES = ""
