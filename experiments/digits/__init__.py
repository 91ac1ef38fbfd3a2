"""Pictures of digits as MNIST has them, and the page to draw on."""
