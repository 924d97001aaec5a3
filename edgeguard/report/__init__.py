"""One `Report` value of a run, rendered as a single HTML file, JSON and a console table."""
