"""The numeric core: images to clouds and back. No files, no clock, no global random state. Import the submodules."""
