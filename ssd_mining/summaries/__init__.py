"""What an analysis knows of a data set, in parts that add up to the same bytes in any order."""
