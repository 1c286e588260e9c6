"""How an export is laid out: what a layout is, each of them, and the table of all."""
