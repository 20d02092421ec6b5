"""Looking at a store: sheets of originals, reconstructions, anchors and errors as PNG files."""
