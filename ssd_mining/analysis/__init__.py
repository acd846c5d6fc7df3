"""What the losses of a data set say."""
