"""The studies: one file each, with a variable `study` and a lab note on top."""
