"""Rows with images of the user: read, checked, and turned into requests for actors that look at them."""
