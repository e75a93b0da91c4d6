"""Published sampling methods, one file each. A method imports what any method needs, and no other method."""
