"""What the command line does, apart from parsing its arguments."""
