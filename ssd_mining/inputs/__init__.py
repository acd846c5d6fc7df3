"""What a call was given becomes a checked batch."""
