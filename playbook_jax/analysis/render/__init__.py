"""Drawing and HTML: axes, plots, pages."""
