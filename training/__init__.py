"""What made the assets that laconic ships."""
