"""What is to be learned: so far the parts of detection."""
