"""The lightbox: a local page that shows what a policy looked at. `web/` holds its HTML, style and script."""
