"""Pictures of digits in the style of MNIST, and the web page to draw on."""
