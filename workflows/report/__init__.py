"""report.html of an output."""
