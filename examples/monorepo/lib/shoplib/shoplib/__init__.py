"""What every service of the shop shares."""
